"""FlashAttention 4 (package flash-attn-4, https://github.com/Dao-AILab/flash-attention) as an attention kernel.

For Hopper and Blackwell GPUs; its kernels are compiled at their first call, in seconds. As an operator of PyTorch's, so
that torch.compile leaves it whole. Shapes as in nanochat.model.attention; N tokens of all documents one after another.
"""

import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor


def flash4(
    q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, window: int, documents: Tensor | None = None
) -> Tensor:
    """See AttentionKernel; documents: where each begins and the last ends, as `document_bounds` gives it."""
    length = q_BTHD.size(1)
    left = window - 1 if window < length else None
    if documents is None:
        return _attend(q_BTHD, k_BTKD, v_BTKD, None, length, left)[0]
    q_NHD, k_NKD, v_NKD = (x.flatten(0, 1) for x in (q_BTHD, k_BTKD, v_BTKD))
    return _attend(q_NHD, k_NKD, v_NKD, documents, length, left)[0].view_as(q_BTHD)


@cache
def _package() -> Any:
    from flash_attn.cute import interface

    warnings.filterwarnings("ignore", message="Argument aux_data", category=UserWarning)  # for its authors
    return interface


@torch.library.custom_op("nanochat::flash4", mutates_args=())
def _attend(
    q: Tensor, k: Tensor, v: Tensor, bounds: Tensor | None, longest: int, left: int | None
) -> tuple[Tensor, Tensor]:
    """(values, log of the sums of exponentials); (B, T, heads, D), or (N, heads, D) with `bounds`."""
    y, sums, *_ = _package()._flash_attn_fwd(
        q, k, v, causal=True, window_size_left=left, return_lse=True, **_documents(bounds, longest)
    )
    return y, sums


@_attend.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, bounds: Tensor | None, longest: int, left: int | None
) -> tuple[Tensor, Tensor]:
    sums = q[..., 0].transpose(-1, -2)
    return torch.empty_like(q, memory_format=torch.contiguous_format), sums.new_empty(
        sums.shape, dtype=torch.float32
    )


@torch.library.custom_op("nanochat::flash4_gradients", mutates_args=())
def _gradients(
    q: Tensor, k: Tensor, v: Tensor, y: Tensor, sums: Tensor, grad: Tensor,
    bounds: Tensor | None, longest: int, left: int | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    found = _package()._flash_attn_bwd(
        q, k, v, y, grad.contiguous(), sums, causal=True, window_size_left=left, **_documents(bounds, longest)
    )
    return found[0], found[1], found[2]


@_gradients.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, y: Tensor, sums: Tensor, grad: Tensor,
    bounds: Tensor | None, longest: int, left: int | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    q, k, v = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
    return q, k, v


def _documents(bounds: Tensor | None, longest: int) -> dict[str, Any]:
    if bounds is None:
        return {}
    return {"cu_seqlens_q": bounds, "cu_seqlens_k": bounds, "max_seqlen_q": longest, "max_seqlen_k": longest}


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, bounds, ctx.longest, ctx.left = inputs
    ctx.save_for_backward(q, k, v, *output, bounds)


def _backward(ctx: Any, grad: Tensor, _sums: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, y, sums, bounds = ctx.saved_tensors
    return *_gradients(q, k, v, y, sums, grad, bounds, ctx.longest, ctx.left), None, None, None


_attend.register_autograd(_backward, setup_context=_keep)
