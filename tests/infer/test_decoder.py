"""The decoder equals the training model: for every switch, in pieces, in any row, copied and swapped."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nanochat.infer.cache import RowCache
from nanochat.infer.torch_decoder import TorchDecoder
from nanochat.model.backend import REFERENCE, Backend
from nanochat.model.gpt import GPT

SLOTS = 64
SWITCHES = ("value_embeddings", "residual_scales", "smear", "backout")
CHANGES: dict[str, dict] = {
    "whole": {},
    **{f"no {switch}": {switch: False} for switch in SWITCHES},
    "bare": dict.fromkeys(SWITCHES, False),
    "all heads have keys": {"n_kv_head": 4},
    "one head has keys": {"n_kv_head": 1},
    "no windows": {"window_pattern": "L"},
    "only windows": {"window_pattern": "S"},
    "no softcap": {"softcap": 0.0},
    "as the reference of 2026-03-14": {
        **{"smear_channels": 24, "gate_channels": 16, "gate_scale": 2.0, "short_window": 9},
        "backout_layer": 3,
    },
    "backout of the last layer": {"backout_layer": 4},
    "other sizes": {"rope_base": 500.0, "qk_gain": 1.0, "mlp_ratio": 3, "n_layer": 3, "n_embd": 8},
}


class Fed:
    """A decoder, and sequences fed to its rows bit by bit."""

    def __init__(self, model: GPT, sequences: list[list[int]], rows: int = 6):
        self.cache = RowCache(model.config, rows, SLOTS, torch.device("cpu"), model.compute_dtype)
        self.decoder = TorchDecoder(model, self.cache)
        self.sequences = sequences

    def logits(
        self, places: list[tuple[int, int, int, int]], rows: slice | None = None, slots: int = SLOTS
    ) -> list[Tensor]:
        """Logits (T, V) of each (sequence, cache row, start, stop), padded to the longest."""
        longest = max(stop - start for _, _, start, stop in places)
        ids, previous, positions = (torch.zeros(len(places), longest, dtype=torch.long) for _ in range(3))
        positions -= 1
        for at, (sequence, _, start, stop) in enumerate(places):
            tokens = torch.tensor(self.sequences[sequence])
            ids[at, : stop - start] = tokens[start:stop]
            previous[at, : stop - start] = torch.cat((torch.zeros(1, dtype=torch.long), tokens))[start:stop]
            positions[at, : stop - start] = torch.arange(start, stop)
        index = torch.tensor([row for _, row, _, _ in places]) if rows is None else rows
        with torch.inference_mode():
            hidden = self.decoder.hidden(ids, previous, positions, index, slots)
            logits = self.decoder.logits(hidden)
        return [logits[at, : stop - start] for at, (_, _, start, stop) in enumerate(places)]


def sequences_of(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randint(0, 256, (length,), generator=generator).tolist() for length in lengths]


@torch.inference_mode()
def plainly(model: GPT, ids: list[int]) -> Tensor:
    return model.logits(model(torch.tensor([ids])))[0]


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


def on(model: GPT, backend: Backend) -> GPT:
    """The same weights on another backend."""
    other = GPT(model.config, backend)
    other.load_state_dict(model.state_dict())
    return other.eval()


@pytest.mark.parametrize("change", CHANGES)
def test_prompts_and_single_tokens_equal_the_training_model(new_model, whole_config, change):
    """Prompts shorter and longer than the window of 16, up to the last place of the context."""
    model = new_model(replace(whole_config, **CHANGES[change]))
    prompts = (1, 7, 16, 60)
    fed = Fed(model, sequences_of(*(n + 4 for n in prompts)))
    order = (2, 0, 3, 1)  # sequence i is in row order[i]
    expected = [plainly(model, ids) for ids in fed.sequences]
    for at, logits in enumerate(fed.logits([(i, order[i], 0, n) for i, n in enumerate(prompts)])):
        assert_close(logits, expected[at][: prompts[at]])
    by_row = sorted(range(4), key=order.__getitem__)
    for step in range(4):
        places = [(i, order[i], prompts[i] + step, prompts[i] + step + 1) for i in by_row]
        for at, logits in zip(by_row, fed.logits(places, rows=slice(0, 4)), strict=True):
            assert_close(logits[0], expected[at][prompts[at] + step])


@pytest.mark.parametrize("chunk", [1, 5, 16, 17])
def test_a_prompt_in_chunks_equals_the_training_model(model, chunk):
    fed = Fed(model, sequences_of(50))
    pieces = [
        fed.logits([(0, 3, start, min(start + chunk, 50))], slots=min(start + chunk, SLOTS))[0]
        for start in range(0, 50, chunk)
    ]
    assert_close(torch.cat(pieces), plainly(model, fed.sequences[0]))


def test_copied_and_swapped_rows_continue_as_before(model):
    a, b, ending = sequences_of(30, 20, 6)
    fed = Fed(model, [a, b, a[:25] + ending])
    fed.logits([(0, 0, 0, 29), (1, 1, 0, 19)])
    fed.cache.swap(0, 1, 29)
    fed.cache.copy(1, 4, 25)
    first, second, fork = fed.logits([(0, 1, 29, 30), (1, 0, 19, 20), (2, 4, 25, 31)])
    assert_close(first[0], plainly(model, a)[-1])
    assert_close(second[0], plainly(model, b)[-1])
    assert_close(fork, plainly(model, fed.sequences[2])[25:])


def test_what_other_rows_and_padding_hold_does_not_matter(model):
    fed = Fed(model, sequences_of(12, 40))
    clean = fed.logits([(0, 0, 0, 12)])[0]
    for tensor in (*fed.cache.k_RKSD, *fed.cache.v_RKSD):
        tensor.fill_(1e3)
    together = fed.logits([(1, 1, 0, 40), (0, 0, 0, 12)])[1]
    assert_close(together, clean)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")
def test_through_onednn_it_equals_the_training_model(model):
    fed = Fed(on(model, replace(REFERENCE, product="oneDNN")), sequences_of(24))
    logits = torch.cat([fed.logits([(0, 0, *part)])[0] for part in ((0, 20), (20, 21), (21, 24))])
    assert_close(logits, plainly(model, fed.sequences[0]))


@pytest.mark.parametrize("fp8", [False, True])
def test_in_bf16_it_stays_near_fp32_even_of_a_model_for_fp8(new_model, whole_config, fp8):
    model = new_model(replace(whole_config, n_head=2, n_kv_head=2, head_dim=16))
    rough = on(model, replace(REFERENCE, compute_dtype=torch.bfloat16, fp8=fp8))
    fed = Fed(rough, sequences_of(24))
    logits, expected = fed.logits([(0, 0, 0, 24)])[0], plainly(model, fed.sequences[0])
    assert logits.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(logits, expected, dim=-1).min() > 0.97
