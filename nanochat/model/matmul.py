"""The library for fp32 matrix products on a CPU, and linear layers that use it.

PyTorch's BLAS is MKL, which does not use AMD's AVX-512 units; oneDNN, also part of PyTorch, does and is twice as
fast there (docs/log.md). The choice depends on the processor, never on a timing, so that a resumed run computes the
same as before. M, N rows of the factors, K their common length.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat import hardware
from nanochat.errors import first_line

ProductName = Literal["BLAS", "oneDNN"]
Product = Callable[[Tensor, Tensor], Tensor]
"""(a_MK, b_NK) -> a @ b.T, (M, N). Either may be a transposed view."""
LinearFunction = Callable[[Tensor, Tensor], Tensor]
"""(x (..., I), weight_OI in fp32) -> x @ weight.T, (..., O), in x's dtype."""
FrozenLinear = Callable[[Tensor], Tensor]
"""x (..., I) -> x @ weight.T, (..., O): a linear layer whose weight is fixed, for inference."""


def blas_product(a_MK: Tensor, b_NK: Tensor) -> Tensor:
    """The product by PyTorch's default library."""
    return a_MK @ b_NK.t()


def onednn_product(a_MK: Tensor, b_NK: Tensor) -> Tensor:
    """The product by oneDNN; torch.compile uses our own operator, since it takes PyTorch's with constant weights only.

    Eager code does not, because the first call of a custom operator imports the compiler, which takes seconds.
    """
    return (_traceable_onednn if torch.compiler.is_compiling() else _onednn)(a_MK, b_NK)


def _onednn(a_MK: Tensor, b_NK: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(a_MK, b_NK, None, "none", [], "")


_traceable_onednn = torch.library.custom_op("nanochat::onednn_product", _onednn, mutates_args=())


@_traceable_onednn.register_fake
def _(a_MK: Tensor, b_NK: Tensor) -> Tensor:
    return a_MK.new_empty(a_MK.size(0), b_NK.size(0))


PRODUCTS: dict[ProductName, Product] = {"BLAS": blas_product, "oneDNN": onednn_product}


def weight_gradient(product: Product, grad_NO: Tensor, x_NI: Tensor) -> Tensor:
    """grad.T @ x, (O, I); computed with the shorter side as rows, which is faster in oneDNN."""
    if grad_NO.size(1) <= x_NI.size(1):
        return product(grad_NO.t(), x_NI.t())
    return product(x_NI.t(), grad_NO.t()).t()


class _OneDnnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, weight_OI: Tensor) -> Tensor:
        ctx.save_for_backward(x_NI, weight_OI)
        return onednn_product(x_NI, weight_OI)

    @staticmethod
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        x_NI, weight_OI = ctx.saved_tensors
        return onednn_product(grad_NO, weight_OI.t()), weight_gradient(onednn_product, grad_NO, x_NI)


def blas_linear(x: Tensor, weight_OI: Tensor) -> Tensor:
    """A linear layer in x's dtype by PyTorch's default library."""
    return F.linear(x, weight_OI.to(x.dtype))


# Inference multiplies few rows, in shapes that seldom recur. There oneDNN's fixed cost (20 µs per call, half a
# millisecond per new shape) exceeds its gain, unless the weight exceeds a core's cache or the product is large.
# A single row is limited by memory bandwidth in either library (docs/log.md).
_ONEDNN_WEIGHT = 2**20
_ONEDNN_MULTIPLICATIONS = 2**24


def onednn_linear(x: Tensor, weight_OI: Tensor) -> Tensor:
    """A linear layer through oneDNN, forward and backward; without gradients, small products go to BLAS."""
    training = torch.is_grad_enabled()
    if not training and _is_small(x, weight_OI):
        return blas_linear(x, weight_OI)
    x_NI = x.flatten(0, -2)
    y_NO = _OneDnnLinear.apply(x_NI, weight_OI) if training else onednn_product(x_NI, weight_OI)
    return y_NO.unflatten(0, x.shape[:-1])


def _is_small(x: Tensor, weight_OI: Tensor) -> bool:
    rows = x.numel() // x.size(-1)
    large = weight_OI.numel() >= _ONEDNN_WEIGHT or rows * weight_OI.numel() >= _ONEDNN_MULTIPLICATIONS
    return rows < 2 or not large


def frozen_blas(weight_OI: Tensor) -> FrozenLinear:
    """A linear layer by PyTorch's own means."""
    return lambda x: F.linear(x, weight_OI)


# oneDNN lays the weight out for a product of this many rows; other numbers of rows can use it as well.
_PACKED_FOR_ROWS = 8


def frozen_onednn(weight_OI: Tensor) -> FrozenLinear:
    """A linear layer through oneDNN, its weight laid out once as oneDNN reads it, if this PyTorch can do so."""
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight_OI.contiguous(), _PACKED_FOR_ROWS)
    except (RuntimeError, AttributeError):
        packed = weight_OI.contiguous()
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")


FROZEN: dict[ProductName, Callable[[Tensor], FrozenLinear]] = {"BLAS": frozen_blas, "oneDNN": frozen_onednn}


def choose_product(device: torch.device, dtype: torch.dtype) -> tuple[ProductName, str]:
    """(library, reason): oneDNN on AMD processors with AVX-512 if a small trial succeeds, else BLAS."""
    if device.type != "cpu" or dtype != torch.float32:
        return "BLAS", "the device's own library"
    cpu = hardware.cpu()
    if cpu.vendor != "AuthenticAMD" or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return "BLAS", "PyTorch's BLAS uses this processor fully"
    try:
        a, b = torch.arange(24.0).view(4, 6), torch.arange(18.0).view(3, 6)
        agrees = torch.equal(onednn_product(a, b), blas_product(a, b))
    except (RuntimeError, AttributeError) as error:  # a build without oneDNN
        return "BLAS", f"oneDNN does not run: {first_line(error)}"
    if not agrees:
        return "BLAS", "oneDNN gave another result in a trial"
    return "oneDNN", "uses AMD's AVX-512 units, which MKL does not"
