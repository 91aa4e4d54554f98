"""With a document mask, documents in one row are computed as if each had a row to itself, by every kernel."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import varlen

from nanochat.model.attention import KernelName
from nanochat.model.backend import REFERENCE
from nanochat.model.compilation import CompiledPart
from nanochat.model.document_mask import document_starts
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.model.loss import IGNORE

BOS = 0
CONFIG = GPTConfig(
    max_seq_len=24,
    vocab_size=50,
    n_layer=3,
    n_head=2,
    n_kv_head=1,
    head_dim=8,
    n_embd=16,
    window_pattern="SL",
)
LENGTHS = ((8, 2, 14), (24,), (2, 3, 4, 5))  # of the documents of each row; what is left of a row is padding


@pytest.fixture(autouse=True)
def varlen_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's varlen attention by its definition, since its own needs CUDA."""

    def attend(q_NHD, k_NHD, v_NHD, bounds, bounds_k, longest, longest_k, *, window_size):  # type: ignore[no-untyped-def]
        assert longest == longest_k == CONFIG.max_seq_len
        n = torch.arange(q_NHD.size(0))
        document_N = torch.bucketize(n, bounds[1:], right=True)
        distance_NN = n[:, None] - n
        left = window_size[0] if window_size[0] >= 0 else longest
        seen_NN = (document_N[:, None] == document_N) & (distance_NN >= 0) & (distance_NN <= left)
        q, k, v = (x.transpose(0, 1) for x in (q_NHD, k_NHD, v_NHD))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen_NN).transpose(0, 1)

    monkeypatch.setattr(varlen, "varlen_attn", attend)


def model_with(kernel: KernelName, compiled: CompiledPart = "nothing") -> GPT:
    model = GPT(CONFIG, replace(REFERENCE, attention=kernel, compiled_part=compiled))
    model.init_weights(0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def packed(lengths: tuple[tuple[int, ...], ...] = LENGTHS) -> tuple[Tensor, Tensor]:
    """(ids, targets) of rows of documents that begin with BOS, padded with BOS."""
    T, generator = CONFIG.max_seq_len, torch.Generator().manual_seed(2)
    ids_BT = torch.full((len(lengths), T), BOS)
    targets_BT = torch.full_like(ids_BT, IGNORE)
    for row, documents in enumerate(lengths):
        at = 0
        for length in documents:
            ids_BT[row, at + 1 : at + length] = torch.randint(1, 50, (length - 1,), generator=generator)
            targets_BT[row, at : at + length - 1] = ids_BT[row, at + 1 : at + length]
            at += length
    return ids_BT, targets_BT


def alone() -> list[tuple[Tensor, Tensor]]:
    """The same documents, one row each."""
    ids_BT, targets_BT = packed()
    pairs = []
    for row, documents in enumerate(LENGTHS):
        for ids_1T, targets_1T in zip(
            ids_BT[row : row + 1, : sum(documents)].split(documents, dim=1),
            targets_BT[row : row + 1, : sum(documents)].split(documents, dim=1),
            strict=True,
        ):
            pairs.append((ids_1T, targets_1T))
    return pairs


def gradients(model: GPT, batches: list[tuple[Tensor, Tensor]], *, mask: bool = False) -> dict[str, Tensor]:
    """The gradients of the loss summed over batches, and that loss."""
    model.zero_grad()
    total = torch.zeros(())
    for ids_BT, targets_BT in batches:
        nats, _ = model.loss(model(ids_BT, document_starts(ids_BT, BOS) if mask else None), targets_BT)
        nats.backward()
        total += nats.detach()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert len(found) == len(list(model.parameters()))
    return found | {"loss": total}


def test_a_document_starts_at_bos_and_padding_is_one() -> None:
    starts_BT = document_starts(torch.tensor([[0, 5, 6, 0, 7, 0, 0, 0], [3, 0, 4, 4, 0, 4, 4, 0]]), BOS)
    assert starts_BT.nonzero().tolist() == [[0, 0], [0, 3], [0, 5], [1, 0], [1, 1], [1, 4], [1, 7]]


@pytest.mark.parametrize("kernel", ["sdpa", "flash", "fa3"])
def test_documents_of_a_row_are_computed_as_if_alone(kernel: KernelName) -> None:
    model = model_with(kernel)
    expected = gradients(model_with("sdpa"), alone())
    torch.testing.assert_close(gradients(model, [packed()], mask=True), expected, atol=1e-5, rtol=1e-5)
    assert not torch.isclose(gradients(model, [packed()])["loss"], expected["loss"], rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "part"), [("sdpa", "block"), ("fa3", "block"), ("fa3", "model")])
def test_compiled_code_is_the_same_for_batches_with_other_documents(
    kernel: KernelName, part: CompiledPart, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracing_only = partial(
        torch.compile, backend="aot_eager"
    )  # generating code takes long and decides nothing here
    monkeypatch.setattr(torch, "compile", tracing_only)
    eager, compiled = model_with(kernel), model_with(kernel, part)
    gradients(compiled, [packed()], mask=True)
    others = [packed(((12, 12), (24,), (24,))), packed(((2,) * 12, (3,) * 8, (4,) * 6))]
    with torch.compiler.set_stance("fail_on_recompile"):
        found = gradients(compiled, others, mask=True)
    torch.testing.assert_close(found, gradients(eager, others, mask=True), atol=1e-4, rtol=1e-3)
