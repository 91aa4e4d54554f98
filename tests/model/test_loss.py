"""The chunked loss equals the plain one, in value and gradients, whatever the chunk."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.model import backend
from nanochat.model.backend import REFERENCE
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.model.loss import (
    IGNORE,
    ChunkLoss,
    chunk_loss,
    fusible_chunk_loss,
    linear_cross_entropy,
    softcapped,
    token_nats,
)


def plain(x_NC: torch.Tensor, weight_VC: torch.Tensor, targets_N: torch.Tensor, cap: float) -> torch.Tensor:
    return F.cross_entropy(
        softcapped(x_NC @ weight_VC.t(), cap), targets_N, ignore_index=IGNORE, reduction="sum"
    )


@pytest.mark.parametrize("kernel", [chunk_loss, fusible_chunk_loss])
@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 20), chunk=st.integers(1, 24), cap=st.sampled_from([0.0, 15.0]), seed=st.integers(0, 99)
)
def test_equals_plain_cross_entropy(kernel: ChunkLoss, n: int, chunk: int, cap: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = (3 * torch.randn(n, 8, generator=generator, dtype=torch.float64)).float().requires_grad_()
    weight = torch.randn(50, 8, generator=generator).requires_grad_()
    targets = torch.randint(-1, 50, (n,), generator=generator)
    ours = linear_cross_entropy(x, weight, targets, cap, chunk, kernel)
    expected = plain(x, weight, targets, cap)
    torch.testing.assert_close(ours, expected, atol=1e-3, rtol=1e-4)
    ours_grads = torch.autograd.grad(2 * ours, (x, weight))
    expected_grads = torch.autograd.grad(2 * expected, (x, weight))
    torch.testing.assert_close(ours_grads, expected_grads, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(
        token_nats(x, weight, targets, cap, chunk).sum(), ours.detach(), atol=1e-3, rtol=1e-4
    )


@pytest.mark.parametrize("kernel", [chunk_loss, fusible_chunk_loss])
@pytest.mark.parametrize("cap", [0.0, 15.0])
def test_a_target_that_is_no_token_is_not_a_number(kernel: ChunkLoss, cap: float) -> None:
    raw_NV = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    targets_N = torch.tensor([6, IGNORE, 7, -2, 10**12])
    nats_N, grad_NV = kernel(raw_NV.clone(), targets_N, cap)
    expected_N, expected_NV = kernel(raw_NV[:2].clone(), targets_N[:2], cap)
    assert torch.equal(nats_N[:2], expected_N)
    assert torch.equal(grad_NV[:2], expected_NV)
    assert nats_N[2:].isnan().all()
    assert grad_NV[2:].isnan().all()


@pytest.mark.parametrize("kernel", [chunk_loss, fusible_chunk_loss])
def test_large_uncapped_logits_do_not_overflow(kernel: ChunkLoss) -> None:
    x = torch.full((2, 4), 100.0, requires_grad=True)
    weight = torch.full((6, 4), 10.0, requires_grad=True)
    loss = linear_cross_entropy(x, weight, torch.tensor([0, IGNORE]), 0.0, 8, kernel)
    assert loss.item() == pytest.approx(torch.tensor(6.0).log().item(), rel=1e-4)


def test_the_whole_logits_tensor_never_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    config = GPTConfig(
        max_seq_len=64, vocab_size=1000, n_layer=1, n_head=1, n_kv_head=1, head_dim=8, n_embd=8
    )
    seen: list[int] = []

    def recording(
        raw_NV: torch.Tensor, targets_N: torch.Tensor, cap: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(raw_NV.size(0))
        return chunk_loss(raw_NV, targets_N, cap)

    monkeypatch.setattr(backend, "chunk_loss", recording)
    model = GPT(config, replace(REFERENCE, memory=replace(REFERENCE.memory, loss_chunk=16)))
    model.init_weights(0)
    ids = torch.randint(0, 1000, (2, 64))
    nats, count = model.loss(model(ids), ids)
    nats.backward()
    assert (max(seen), sum(seen), count.item()) == (16, 128, 128)


def test_padded_rows_of_the_vocabulary_take_no_part() -> None:
    config = GPTConfig(max_seq_len=8, vocab_size=70, n_layer=1, n_head=1, n_kv_head=1, head_dim=8, n_embd=8)
    model = GPT(config, REFERENCE)
    model.init_weights(0)
    ids = torch.randint(0, 70, (1, 8))
    hidden = model(ids)
    before = model.loss(hidden, ids)[0].item()
    with torch.no_grad():
        model.head.weight[70:] = 50.0
    assert model.loss(hidden, ids)[0].item() == before
    assert model.logits(hidden).shape == (1, 8, 70)
