"""Our operator around FlashAttention 4, on a CPU: plain attention of the same signature stands in for its package."""

import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor

from nanochat.model.attention import fa4, sdpa
from nanochat.model.document_mask import document_bounds, document_mask, document_starts

B, T, H, D = 2, 16, 2, 8
BOS = 0


def _scores(q: Tensor, k: Tensor, bounds: Tensor | None, left: int | None) -> Tensor:
    """Masked scores (…, heads, queries, keys) of the package's layout: (…, tokens, heads, D)."""
    scores = torch.einsum("...qhd,...khd->...hqk", q, k) * q.size(-1) ** -0.5
    at = torch.arange(q.size(-3))
    distance = at[:, None] - at
    seen = (distance >= 0) & (distance <= (q.size(-3) if left is None else left))
    if bounds is not None:
        document = torch.searchsorted(bounds, at.to(bounds.dtype), right=True)
        seen &= document[:, None] == document
    return scores.masked_fill(~seen, float("-inf"))


def _forward(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool, window_size_left: int | None, return_lse: bool,
    cu_seqlens_q: Tensor | None = None, cu_seqlens_k: Tensor | None = None,
    max_seqlen_q: int | None = None, max_seqlen_k: int | None = None,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    assert causal
    assert return_lse
    assert (cu_seqlens_q is None) == (max_seqlen_q is None)
    scores = _scores(q, k, cu_seqlens_q, window_size_left)
    y = torch.einsum("...hqk,...khd->...qhd", scores.softmax(-1), v)
    return y.contiguous(), scores.logsumexp(-1), None, None, None


def _backward(
    q: Tensor, k: Tensor, v: Tensor, y: Tensor, grad: Tensor, sums: Tensor, *, causal: bool,
    window_size_left: int | None, cu_seqlens_q: Tensor | None = None, cu_seqlens_k: Tensor | None = None,
    max_seqlen_q: int | None = None, max_seqlen_k: int | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    assert causal
    assert grad.is_contiguous()
    shares = (_scores(q, k, cu_seqlens_q, window_size_left) - sums[..., None]).exp()
    of_shares = torch.einsum("...qhd,...khd->...hqk", grad, v)
    dot = (grad * y).sum(-1).transpose(-1, -2)[..., None]
    of_scores = shares * (of_shares - dot) * q.size(-1) ** -0.5
    return (
        torch.einsum("...hqk,...khd->...qhd", of_scores, k).contiguous(),
        torch.einsum("...hqk,...qhd->...khd", of_scores, q).contiguous(),
        torch.einsum("...hqk,...qhd->...khd", shares, grad).contiguous(),
    )


@pytest.fixture(scope="module", autouse=True)
def package() -> Iterator[None]:
    interface = ModuleType("flash_attn.cute.interface")
    interface._flash_attn_fwd, interface._flash_attn_bwd = _forward, _backward  # type: ignore[attr-defined]
    cute = ModuleType("flash_attn.cute")
    cute.interface = interface  # type: ignore[attr-defined]
    names = {"flash_attn": ModuleType("flash_attn"), "flash_attn.cute": cute, interface.__name__: interface}
    with pytest.MonkeyPatch.context() as patch:
        for name, module in names.items():
            patch.setitem(sys.modules, name, module)
        yield


def _found(attend: Callable[..., Tensor], *more: object) -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    q, k, v, weights = (torch.randn(B, T, H, D, generator=draw) for _ in range(4))
    inputs = [x.requires_grad_() for x in (q, k, v)]
    y = attend(*inputs, *more)
    return [y.detach(), *torch.autograd.grad((y * weights).transpose(1, 2).sum(), inputs)]


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("window", [1, 5, T])
def test_values_and_gradients_are_those_of_sdpa(window: int, compiled: bool) -> None:
    attend = torch.compile(fa4, backend="aot_eager", fullgraph=True) if compiled else fa4
    torch.testing.assert_close(_found(attend, window), _found(sdpa, window), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("window", [3, T])
def test_documents_of_a_row_do_not_see_each_other(window: int) -> None:
    ids = torch.ones(B, T, dtype=torch.long)
    ids[0, 5] = ids[1, 0] = ids[1, 11] = BOS
    starts_BT = document_starts(ids, BOS)
    found = _found(fa4, window, document_bounds(starts_BT, window))
    expected = _found(sdpa, window, document_mask(starts_BT, window))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
