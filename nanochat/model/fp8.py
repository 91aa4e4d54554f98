"""fp8 matrix multiplication for Hopper and later: tensorwise scaled, e4m3 forward, e5m2 gradients.

After "FP8 Formats for Deep Learning" (arXiv:2209.05433). One scale per tensor, from its largest magnitude at each
use. On devices without fp8 units the same arithmetic is emulated (cast to fp8 and back, then multiply), so that tests
on a CPU see the rounding of a GPU.
"""

from typing import Any

import torch
from torch import Tensor

FORWARD = torch.float8_e4m3fn
BACKWARD = torch.float8_e5m2
_TINY = 1e-12

FP8_MULTIPLE = 16
"""fp8 units multiply matrices whose sides are multiples of this."""


def quantise(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x scaled to the full range of `dtype`, and the fp32 scale that undoes it: x ≈ quantised * scale."""
    limit = torch.finfo(dtype).max
    scale = x.detach().abs().amax().float().clamp_min(_TINY) / limit
    return (x.float() / scale).clamp(-limit, limit).to(dtype), scale


def choose_fp8(asked: bool, device: torch.device) -> tuple[bool, str]:
    """(fp8 or not, reason). Raises ValueError if it is requested on a device without fp8 units."""
    if asked and not has_fp8(device):
        raise ValueError(
            "--fp8 needs a GPU with fp8 units (Hopper, Ada or later): "
            "leave it out (in a recipe: --set pretrain.fp8=false)"
        )
    if asked:
        return True, "--fp8: the blocks' matrices, e4m3 forward and e5m2 for gradients"
    possible = "possible with --fp8" if has_fp8(device) else "needs a GPU of compute capability 8.9 or later"
    return False, possible


def has_fp8(device: torch.device) -> bool:
    """Whether the device multiplies fp8 natively (compute capability 8.9 and later)."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def scaled_matmul(
    a_MK: Tensor, b_KN: Tensor, scale_a: Tensor, scale_b: Tensor, dtype: torch.dtype, *, fast: bool = False
) -> Tensor:
    """(a * scale_a) @ (b * scale_b) in `dtype`, a and b in fp8.

    fast: sum in fewer bits than fp32's on Hopper (arXiv:2412.19437, section 3.3.2); the error grows with K.
    """
    if has_fp8(a_MK.device):
        column_major = b_KN.t().contiguous().t()  # the hardware requires it for the second operand
        return torch._scaled_mm(
            a_MK.contiguous(),
            column_major,
            scale_a=scale_a,
            scale_b=scale_b,
            out_dtype=dtype,
            use_fast_accum=fast,
        )
    return ((a_MK.float() @ b_KN.float()) * (scale_a * scale_b)).to(dtype)


class _Fp8Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, weight_OI: Tensor) -> Tensor:
        x8, x_scale = quantise(x_NI, FORWARD)
        w8, w_scale = quantise(weight_OI, FORWARD)
        ctx.save_for_backward(x8, x_scale, w8, w_scale)
        ctx.weight_dtype = weight_OI.dtype
        return scaled_matmul(x8, w8.t(), x_scale, w_scale, x_NI.dtype, fast=True)

    @staticmethod
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        x8, x_scale, w8, w_scale = ctx.saved_tensors
        g8, g_scale = quantise(grad_NO, BACKWARD)
        grad_x = scaled_matmul(g8, w8, g_scale, w_scale, grad_NO.dtype)
        grad_w = scaled_matmul(g8.t(), x8, g_scale, x_scale, grad_NO.dtype)
        return grad_x, grad_w.to(ctx.weight_dtype)


def fp8_linear(x: Tensor, weight_OI: Tensor) -> Tensor:
    """x @ weight.T with both in fp8. The hardware requires sizes that are multiples of FP8_MULTIPLE."""
    return _Fp8Linear.apply(x.flatten(0, -2), weight_OI).unflatten(0, x.shape[:-1])


def fits_fp8(n_in: int, n_out: int) -> bool:
    """Whether the hardware can multiply a weight of these sizes."""
    return n_in % FP8_MULTIPLE == 0 and n_out % FP8_MULTIPLE == 0
