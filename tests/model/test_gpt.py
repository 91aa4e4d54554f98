"""Every part of the model has its effect, the future has none, and the kernels agree."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nanochat.errors import EnvironmentFault
from nanochat.model import attention
from nanochat.model.backend import REFERENCE
from nanochat.model.document_mask import document_bounds, document_mask, document_starts
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


def lively(config: GPTConfig) -> GPT:
    """A model in which every part has an effect: zero-initialised weights are made random."""
    model = GPT(config, REFERENCE)
    model.init_weights(0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.abs().max() < 0.01:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def ids_of(rows: int, length: int) -> Tensor:
    return torch.randint(0, TINY.vocab_size, (rows, length), generator=torch.Generator().manual_seed(2))


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

    def differs(q: Tensor, k: Tensor, v: Tensor, window: int, documents: Tensor | None = None) -> Tensor:
        return attention.sdpa(q, k, v, window, documents) + 1

    device = torch.device("cpu")
    broken = {
        "fa4": attention.KernelCandidate(fails, document_bounds),
        "fa3": attention.KernelCandidate(differs, document_bounds),
        "flash": attention.KernelCandidate(differs, document_bounds),
    }
    monkeypatch.setattr(attention, "KERNELS", {**attention.KERNELS, **broken})
    assert attention.choose_kernel(device, torch.float32)[0] == "sdpa"
    reasons = [probe.reason for probe in attention.probe_kernels(device, torch.float32)]
    assert reasons[0] == "no such instruction"
    assert "differs from sdpa by 1" in reasons[1]
    monkeypatch.setattr(attention, "KERNELS", broken)
    with pytest.raises(EnvironmentFault, match="no attention kernel runs on cpu"):
        attention.choose_kernel(device, torch.float32)


def test_without_training_only_pytorchs_own_attention_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[object] = []
    other = attention.KernelCandidate(lambda *inputs: tried.append(inputs), document_bounds)
    kernels = {"fa4": other, "sdpa": attention.KERNELS["sdpa"]}
    monkeypatch.setattr(attention, "KERNELS", kernels)
    assert attention.choose_kernel(torch.device("cpu"), torch.float32, training=False)[0] == "sdpa"
    assert not tried
    assert attention.choose_kernel(torch.device("cpu"), torch.float32)[0] == "sdpa"
    assert tried


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("window", [4, 64, 256])
def test_the_chosen_gpu_kernel_equals_sdpa(window: int) -> None:
    device = torch.device("cuda")
    kernel = attention.KERNELS[attention.choose_kernel(device, torch.bfloat16)[0]].run
    q, k, v = (torch.randn(2, 256, 4, 64, device=device, dtype=torch.bfloat16) for _ in range(3))
    torch.testing.assert_close(kernel(q, k, v, window), attention.sdpa(q, k, v, window), atol=2e-2, rtol=2e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("window", [4, 64, 256])
def test_the_chosen_gpu_kernel_keeps_documents_apart_as_sdpa_does(window: int) -> None:
    device = torch.device("cuda")
    kernel = attention.KERNELS[attention.choose_kernel(device, torch.bfloat16)[0]]
    q, k, v = (torch.randn(2, 256, 4, 64, device=device, dtype=torch.bfloat16) for _ in range(3))
    starts_BT = document_starts(torch.randint(0, 20, (2, 256), device=device), bos=0)
    found = kernel.run(q, k, v, window, kernel.documents(starts_BT, window))
    expected = attention.sdpa(q, k, v, window, document_mask(starts_BT, window))
    torch.testing.assert_close(found, expected, atol=2e-2, rtol=2e-2)


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
