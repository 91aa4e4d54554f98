"""Cross-entropy of a soft-capped linear head, in chunks: the whole logits tensor never exists.

The idea of Liger's fused linear cross-entropy (arXiv:2410.10989): each chunk of rows makes its logits, its loss and
its gradients at once and drops the logits. N rows, C channels, V vocabulary.
"""

from collections.abc import Callable

import torch
from torch import Tensor

IGNORE = -1

ChunkLoss = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]


def softcapped(x: Tensor, cap: float) -> Tensor:
    return cap * torch.tanh(x / cap) if cap else x


def chunk_loss(raw_NV: Tensor, targets_N: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    """(nats_N, gradient of their sum with respect to raw_NV); rows whose target is IGNORE give zeros."""
    raw_NV = raw_NV.float()
    valid_N = targets_N != IGNORE
    index_N1 = targets_N.clamp_min(0)[:, None]
    # Capped logits lie within ±cap, so exp() needs no maximum subtracted; uncapped ones do.
    if cap:
        tanh_NV = torch.tanh(raw_NV / cap)
        logits_NV = cap * tanh_NV
    else:
        logits_NV = raw_NV - raw_NV.amax(dim=1, keepdim=True)
    exp_NV = logits_NV.exp()
    total_N = exp_NV.sum(dim=1)
    nats_N = (total_N.log() - logits_NV.gather(1, index_N1)[:, 0]) * valid_N
    scale_N1 = (valid_N / total_N)[:, None]
    columns_V = torch.arange(raw_NV.size(1), device=raw_NV.device)
    hit_NV = (columns_V[None, :] == index_N1) & valid_N[:, None]
    grad_NV = exp_NV * scale_N1 - hit_NV.to(exp_NV.dtype)
    if cap:
        grad_NV = grad_NV * (1 - tanh_NV * tanh_NV)
    return nats_N, grad_NV


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, x_NC: Tensor, weight_VC: Tensor, targets_N: Tensor, cap: float, chunk: int, kernel
    ) -> Tensor:
        weight = weight_VC.to(x_NC.dtype)
        grad_x_NC = torch.empty_like(x_NC)
        grad_weight_VC = torch.zeros_like(weight_VC)
        total = torch.zeros((), dtype=torch.float32, device=x_NC.device)
        for start in range(0, x_NC.size(0), chunk):
            rows = slice(start, start + chunk)
            nats_N, grad_NV = kernel(x_NC[rows] @ weight.t(), targets_N[rows], cap)
            grad_NV = grad_NV.to(x_NC.dtype)
            total += nats_N.sum()
            torch.mm(grad_NV, weight, out=grad_x_NC[rows])
            if grad_weight_VC.dtype == grad_NV.dtype:
                grad_weight_VC.addmm_(grad_NV.t(), x_NC[rows])
            else:
                grad_weight_VC += grad_NV.t() @ x_NC[rows]
        ctx.save_for_backward(grad_x_NC, grad_weight_VC)
        return total

    @staticmethod
    def backward(ctx, grad_output: Tensor):  # type: ignore[override]
        grad_x_NC, grad_weight_VC = ctx.saved_tensors
        return grad_x_NC * grad_output, grad_weight_VC * grad_output, None, None, None, None


def linear_cross_entropy(
    x_NC: Tensor, weight_VC: Tensor, targets_N: Tensor, cap: float, chunk: int, kernel: ChunkLoss = chunk_loss
) -> Tensor:
    """Summed nats (fp32 scalar) of softcapped(x @ weight.T) against targets_N; IGNORE targets count nothing."""
    return _LinearCrossEntropy.apply(x_NC, weight_VC, targets_N, cap, chunk, kernel)


@torch.no_grad()
def token_nats(x_NC: Tensor, weight_VC: Tensor, targets_N: Tensor, cap: float, chunk: int) -> Tensor:
    """Nats of each target, fp32, 0 where it is IGNORE; no gradients."""
    weight = weight_VC.to(x_NC.dtype)
    nats = []
    for start in range(0, x_NC.size(0), chunk):
        rows = slice(start, start + chunk)
        logits_NV = softcapped((x_NC[rows] @ weight.t()).float(), cap)
        nats.append(
            torch.nn.functional.cross_entropy(
                logits_NV, targets_N[rows], ignore_index=IGNORE, reduction="none"
            )
        )
    return torch.cat(nats)
