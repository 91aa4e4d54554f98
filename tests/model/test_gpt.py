"""The model gives the same results cached or not, whole or without a part, on any kernel."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nanochat.errors import EnvironmentFault
from nanochat.infer.cache import KVCache
from nanochat.model import attention, matmul
from nanochat.model.backend import REFERENCE, Backend
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig

TINY = GPTConfig(
    max_seq_len=32,
    vocab_size=100,
    n_layer=3,
    n_head=4,
    n_kv_head=2,
    head_dim=8,
    n_embd=32,
    window_pattern="SL",
)
SWITCHES = ("value_embeddings", "residual_scales", "smear", "backout")


def lively(config: GPTConfig, backend: Backend = REFERENCE) -> GPT:
    """A model in which every part has an effect: zero-initialised weights are made random."""
    model = GPT(config, backend)
    model.init_weights(0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.abs().max() < 0.01:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def ids_of(rows: int, length: int) -> Tensor:
    return torch.randint(0, TINY.vocab_size, (rows, length), generator=torch.Generator().manual_seed(2))


def decode(model: GPT, ids_BT: Tensor, chunks: list[int]) -> Tensor:
    """Hidden states of the same ids, fed to a cache in chunks of these lengths."""
    cache = KVCache.empty(model.config, ids_BT.size(0), ids_BT.size(1), ids_BT.device, torch.float32)
    outputs, start = [], 0
    for length in chunks:
        positions_BT = torch.arange(start, start + length).expand(ids_BT.size(0), -1)
        outputs.append(model(ids_BT[:, start : start + length], positions_BT, cache))
        start += length
    return torch.cat(outputs, dim=1)


@pytest.mark.parametrize("off", [None, *SWITCHES])
@pytest.mark.parametrize("chunks", [[24], [1] * 24, [7, 1, 1, 10, 5]])
def test_cached_equals_uncached(off: str | None, chunks: list[int]) -> None:
    model = lively(replace(TINY, **{off: False} if off else {}))
    ids_BT = ids_of(2, 24)
    torch.testing.assert_close(decode(model, ids_BT, chunks), model(ids_BT), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("product", ["BLAS", "oneDNN"])
def test_cached_logits_equal_uncached_ones_through_every_library(
    monkeypatch: pytest.MonkeyPatch, product: matmul.ProductName
) -> None:
    if product == "oneDNN" and not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch has no oneDNN")
    monkeypatch.setattr(
        matmul, "_ONEDNN_MULTIPLICATIONS", 40_000
    )  # prompts through oneDNN, single tokens not
    model, ids_BT = lively(TINY, replace(REFERENCE, product=product)), ids_of(2, 24)
    with torch.inference_mode():
        cached, uncached = decode(model, ids_BT, [20, 1, 1, 1, 1]), model(ids_BT)
        torch.testing.assert_close(model.logits(cached), model.logits(uncached), atol=1e-4, rtol=1e-4)


def test_rows_of_a_cache_have_their_own_positions() -> None:
    model = lively(TINY)
    ids_BT = ids_of(3, 20)
    lengths = [20, 5, 12]
    cache = KVCache.empty(TINY, 3, 32, ids_BT.device, torch.float32)
    positions_BT = torch.arange(20).expand(3, -1).clone()
    for row, length in enumerate(lengths):
        positions_BT[row, length:] = -1
    prefilled = model(ids_BT, positions_BT, cache)
    new_B1 = ids_of(3, 21)[:, -1:]
    decoded = model(new_B1, torch.tensor(lengths)[:, None], cache)
    for row, length in enumerate(lengths):
        alone = torch.cat((ids_BT[row, :length], new_B1[row]))[None]
        expected = model(alone)[0]
        torch.testing.assert_close(prefilled[row, :length], expected[:length], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(decoded[row, 0], expected[length], atol=2e-5, rtol=1e-4)


def test_a_moved_row_goes_on_as_before() -> None:
    model = lively(TINY)
    ids_BT = ids_of(2, 10)
    cache = KVCache.empty(TINY, 2, 16, ids_BT.device, torch.float32)
    model(ids_BT, torch.arange(10).expand(2, -1), cache)
    cache.move(1, 0)
    new = torch.tensor([[5]])
    moved = model(new, torch.tensor([[10]]), cache.rows(0, 1))
    expected = model(torch.cat((ids_BT[1:], new), dim=1))[:, -1:]
    torch.testing.assert_close(moved, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("switch", SWITCHES)
def test_every_switch_matters(switch: str) -> None:
    ids_BT = ids_of(1, 16)
    whole, without = lively(TINY), GPT(replace(TINY, **{switch: False}), REFERENCE)
    without.load_state_dict(
        {k: v for k, v in whole.state_dict().items() if k in without.state_dict()}, strict=False
    )
    assert not torch.allclose(whole(ids_BT), without.eval()(ids_BT), atol=1e-3)


def test_the_future_does_not_leak() -> None:
    model = lively(TINY)
    ids_BT = ids_of(1, 24)
    changed = ids_BT.clone()
    changed[0, 15] = (changed[0, 15] + 1) % TINY.vocab_size
    before, after = model(ids_BT), model(changed)
    torch.testing.assert_close(before[:, :15], after[:, :15])
    assert not torch.allclose(before[:, 15], after[:, 15])


def naive_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """One query at a time, in float64."""
    q, k, v = (x.double() for x in (q, k, v))
    groups = q.size(2) // k.size(2)
    out = torch.zeros_like(q)
    for b in range(q.size(0)):
        for t in range(q.size(1)):
            first = max(0, t - window + 1)
            for h in range(q.size(2)):
                scores = k[b, first : t + 1, h // groups] @ q[b, t, h] / q.size(-1) ** 0.5
                out[b, t, h] = scores.softmax(dim=0) @ v[b, first : t + 1, h // groups]
    return out


@pytest.mark.parametrize("window", [1, 3, 8, 16, 100])
def test_sdpa_equals_plain_attention(window: int) -> None:
    generator = torch.Generator().manual_seed(3)
    q = torch.randn(2, 16, 4, 8, generator=generator)
    k, v = (torch.randn(2, 16, 2, 8, generator=generator) for _ in range(2))
    torch.testing.assert_close(
        attention.sdpa(q, k, v, window).double(), naive_attention(q, k, v, window), atol=1e-5, rtol=1e-4
    )
    positions = torch.arange(16).expand(2, -1)
    cached = attention.attend_cached(q, k, v, positions, positions, window)
    torch.testing.assert_close(cached.double(), naive_attention(q, k, v, window), atol=1e-5, rtol=1e-4)


def test_the_probe_finds_a_kernel_on_a_cpu_and_says_why_not_the_others() -> None:
    probes = {p.name: p for p in attention.probe_kernels(torch.device("cpu"), torch.float32)}
    assert probes["sdpa"].usable
    assert not probes["fa3"].usable
    assert "CUDA" in probes["fa3"].reason


def test_a_kernel_that_fails_or_computes_something_else_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: object) -> Tensor:
        raise RuntimeError("no such instruction\nand a long trace")

    def differs(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        return attention.sdpa(q, k, v, window) + 1

    device = torch.device("cpu")
    broken = {"fa3": attention.KernelCandidate(fails), "varlen": attention.KernelCandidate(differs)}
    monkeypatch.setattr(attention, "KERNELS", {**attention.KERNELS, **broken})
    assert attention.choose_kernel(device, torch.float32)[0] == "sdpa"
    reasons = [probe.reason for probe in attention.probe_kernels(device, torch.float32)]
    assert reasons[0] == "no such instruction"
    assert "differs from sdpa by 1" in reasons[1]
    monkeypatch.setattr(attention, "KERNELS", broken)
    with pytest.raises(EnvironmentFault, match="no attention kernel runs on cpu"):
        attention.choose_kernel(device, torch.float32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("window", [4, 64, 256])
def test_the_chosen_gpu_kernel_equals_sdpa(window: int) -> None:
    device = torch.device("cuda")
    kernel = attention.KERNELS[attention.choose_kernel(device, torch.bfloat16)[0]].run
    q, k, v = (torch.randn(2, 256, 4, 64, device=device, dtype=torch.bfloat16) for _ in range(3))
    torch.testing.assert_close(kernel(q, k, v, window), attention.sdpa(q, k, v, window), atol=2e-2, rtol=2e-2)


def test_windows_and_value_embeddings_lie_where_they_should() -> None:
    config = replace(TINY, n_layer=6, window_pattern="SSSL", max_seq_len=64)
    assert [config.window(layer) for layer in range(6)] == [16, 16, 16, 64, 16, 64]
    assert [config.has_value_embedding(layer) for layer in range(6)] == [
        False,
        True,
        False,
        True,
        False,
        True,
    ]


@pytest.mark.parametrize(
    "wrong",
    [{"n_head": 3}, {"head_dim": 7}, {"window_pattern": "SX"}, {"window_pattern": ""}, {"n_layer": 0}],
)
def test_a_shape_that_cannot_be_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong)).split("_")[0]):
        replace(TINY, **wrong)


def test_too_long_a_context_is_refused() -> None:
    with pytest.raises(ValueError, match="context of 32"):
        lively(TINY)(ids_of(1, 33))
    with pytest.raises(ValueError, match="context of 32"):
        KVCache.empty(TINY, 1, 33, torch.device("cpu"), torch.float32)


def test_a_seed_decides_the_start() -> None:
    first, again, other = GPT(TINY, REFERENCE), GPT(TINY, REFERENCE), GPT(TINY, REFERENCE)
    first.init_weights(7)
    again.init_weights(7)
    other.init_weights(8)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.embedding.weight, other.embedding.weight)


def test_bf16_stays_near_fp32() -> None:
    exact = lively(TINY)
    rough = GPT(TINY, replace(REFERENCE, compute_dtype=torch.bfloat16))
    rough.load_state_dict(exact.state_dict())
    ids_BT = ids_of(2, 16)
    hidden = rough(ids_BT)
    assert hidden.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(hidden.float(), exact(ids_BT), dim=-1).min() > 0.98
    assert rough.logits(hidden).dtype == torch.float32
