"""Cross-entropy of a soft-capped linear head, in chunks, so that the full logits tensor is never allocated.

As in Liger's fused linear cross-entropy (arXiv:2410.10989), each chunk of rows computes its logits, loss and
gradients together and drops the logits. N rows, C channels, V vocabulary.

A row whose target is IGNORE counts as 0. One whose target is no token has nats and gradients of NaN, so that training
skips and counts the step: neither guessing a token nor reading beyond the row.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nanochat.model.matmul import LinearFunction, Product, blas_linear, blas_product, weight_gradient

IGNORE = -1

ChunkLoss = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]


def softcapped(x: Tensor, cap: float) -> Tensor:
    """Logits squashed into ±cap by tanh; unchanged for a cap of 0."""
    return cap * torch.tanh(x / cap) if cap else x


def _counted(targets_N: Tensor, vocab_size: int) -> Tensor:
    """How often each row counts (N, 1), fp32: once, not at all, or NaN."""
    is_token_N = (targets_N >= 0) & (targets_N < vocab_size)
    return torch.where(is_token_N, 1.0, torch.where(targets_N == IGNORE, 0.0, math.nan))[:, None]


def chunk_loss(raw_NV: Tensor, targets_N: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    """(nats_N, gradient of their sum with respect to raw_NV), in fp32.

    Overwrites raw_NV if it is fp32: on a CPU in eager mode, new memory costs more than the arithmetic.
    """
    raw_NV = raw_NV.float()
    counted_N1 = _counted(targets_N, raw_NV.size(1))
    index_N1 = targets_N.clamp(0, raw_NV.size(1) - 1)[:, None]
    target_N1 = softcapped(raw_NV.gather(1, index_N1), cap)
    if cap:  # logits are within ±cap, so exp() needs no maximum subtracted
        # tanh x = 1 - 2 / (1 + exp 2x), because CPUs have fast vector code for exp only.
        tanh_NV = raw_NV.mul_(2 / cap).exp_().add_(1).reciprocal_().mul_(-2).add_(1)
        exp_NV = torch.mul(tanh_NV, cap).exp_()
    else:
        largest_N1 = raw_NV.amax(dim=1, keepdim=True)
        target_N1 = target_N1 - largest_N1
        exp_NV = raw_NV.sub_(largest_N1).exp_()
    total_N1 = exp_NV.sum(dim=1, keepdim=True)
    nats_N1 = (total_N1.log() - target_N1) * counted_N1
    grad_NV = exp_NV.mul_(counted_N1 / total_N1)
    grad_NV.scatter_add_(1, index_N1, -counted_N1)
    if cap:  # through the cap: times 1 - tanh²
        grad_NV.addcmul_(grad_NV, tanh_NV.square_(), value=-1)
    return nats_N1[:, 0], grad_NV


def fusible_chunk_loss(raw_NV: Tensor, targets_N: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    """The same for a compiler: it reads the logits twice and writes the gradient once, in the logits' dtype.

    Without in-place operations and scatter, either of which makes the compiler pass over the logits again.
    """
    counted_N1 = _counted(targets_N, raw_NV.size(1))
    is_target_NV = targets_N[:, None] == torch.arange(raw_NV.size(1), device=raw_NV.device)
    logits_NV = softcapped(raw_NV.float(), cap)
    shifted_NV = logits_NV - (cap if cap else logits_NV.amax(dim=1, keepdim=True))
    total_N1 = shifted_NV.exp().sum(dim=1, keepdim=True)
    target_N1 = (shifted_NV * is_target_NV).sum(dim=1, keepdim=True)
    nats_N1 = (total_N1.log() - target_N1) * counted_N1
    grad_NV = (shifted_NV.exp() / total_N1 - is_target_NV.float()) * counted_N1
    if cap:  # through the cap: times 1 - tanh²
        grad_NV = grad_NV * (1 - (logits_NV / cap).square())
    return nats_N1[:, 0], grad_NV.to(raw_NV.dtype)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_NC: Tensor,
        weight_VC: Tensor,
        targets_N: Tensor,
        cap: float,
        chunk: int,
        kernel: ChunkLoss,
        product: Product,
    ) -> Tensor:
        weight = weight_VC.to(x_NC.dtype)
        grad_x_NC = torch.empty_like(x_NC)
        grad_weight_VC = torch.zeros_like(weight_VC)
        total = torch.zeros((), dtype=torch.float32, device=x_NC.device)
        for start in range(0, x_NC.size(0), chunk):
            rows = slice(start, start + chunk)
            nats_N, grad_NV = kernel(product(x_NC[rows], weight), targets_N[rows], cap)
            grad_NV = grad_NV.to(x_NC.dtype)
            total += nats_N.sum()
            grad_x_NC[rows] = product(grad_NV, weight.t())
            grad_weight_VC += weight_gradient(product, grad_NV, x_NC[rows])
        ctx.save_for_backward(grad_x_NC, grad_weight_VC)
        return total

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        grad_x_NC, grad_weight_VC = ctx.saved_tensors
        return grad_x_NC * grad_output, grad_weight_VC * grad_output, None, None, None, None, None


def linear_cross_entropy(
    x_NC: Tensor,
    weight_VC: Tensor,
    targets_N: Tensor,
    cap: float,
    chunk: int,
    kernel: ChunkLoss = chunk_loss,
    product: Product = blas_product,
) -> Tensor:
    """Summed nats (fp32 scalar) of softcapped(x @ weight.T) against targets_N; IGNORE targets count as 0."""
    return _LinearCrossEntropy.apply(x_NC, weight_VC, targets_N, cap, chunk, kernel, product)


class _LinearTokenNats(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_NC: Tensor,
        weight_VC: Tensor,
        targets_N: Tensor,
        cap: float,
        chunk: int,
        kernel: ChunkLoss,
        product: Product,
    ) -> Tensor:
        ctx.save_for_backward(x_NC, weight_VC, targets_N)
        ctx.settings = cap, chunk, kernel, product
        weight = weight_VC.to(x_NC.dtype)
        nats = [
            kernel(product(x_NC[start : start + chunk], weight), targets_N[start : start + chunk], cap)[0]
            for start in range(0, x_NC.size(0), chunk)
        ]
        return torch.cat(nats)

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x_NC, weight_VC, targets_N = ctx.saved_tensors
        cap, chunk, kernel, product = ctx.settings
        weight = weight_VC.to(x_NC.dtype)
        grad_x_NC, grad_weight_VC = torch.empty_like(x_NC), torch.zeros_like(weight_VC)
        for start in range(0, x_NC.size(0), chunk):
            rows = slice(start, start + chunk)
            _, grad_NV = kernel(product(x_NC[rows], weight), targets_N[rows], cap)
            grad_NV = grad_NV.mul_(grad_N[rows, None]).to(x_NC.dtype)
            grad_x_NC[rows] = product(grad_NV, weight.t())
            grad_weight_VC += weight_gradient(product, grad_NV, x_NC[rows])
        return grad_x_NC, grad_weight_VC, None, None, None, None, None


def linear_token_nats(
    x_NC: Tensor,
    weight_VC: Tensor,
    targets_N: Tensor,
    cap: float,
    chunk: int,
    kernel: ChunkLoss = chunk_loss,
    product: Product = blas_product,
) -> Tensor:
    """Nats of each target (N,) in fp32, 0 for IGNORE, for losses that are functions of them.

    The logits are computed twice, chunk by chunk: an unknown function's gradient is known only backward.
    """
    return _LinearTokenNats.apply(x_NC, weight_VC, targets_N, cap, chunk, kernel, product)


@torch.no_grad()
def token_nats(
    x_NC: Tensor,
    weight_VC: Tensor,
    targets_N: Tensor,
    cap: float,
    chunk: int,
    linear: LinearFunction = blas_linear,
) -> Tensor:
    """Nats of each target in fp32, 0 for IGNORE; no gradients."""
    nats = []
    for start in range(0, x_NC.size(0), chunk):
        rows = slice(start, start + chunk)
        logits_NV = softcapped(linear(x_NC[rows], weight_VC).float(), cap)
        nats.append(
            torch.nn.functional.cross_entropy(
                logits_NV, targets_N[rows], ignore_index=IGNORE, reduction="none"
            )
        )
    return torch.cat(nats)
