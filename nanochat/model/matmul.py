"""Which library multiplies fp32 matrices on a CPU, and linear layers through it.

PyTorch's BLAS is MKL, which leaves AMD's AVX-512 units unused; oneDNN, which PyTorch ships as well, uses them and is
twice as fast there (docs/log.md). The choice follows from the processor, never from a timing, so that a resumed run
multiplies as the interrupted one did. M, N rows of the factors, K their common length.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from nanochat import hardware

Product = Callable[[Tensor, Tensor], Tensor]
"""(a_MK, b_NK) -> a @ b.T, (M, N). Either may be a transposed view."""


def blas_product(a_MK: Tensor, b_NK: Tensor) -> Tensor:
    return a_MK @ b_NK.t()


@torch.library.custom_op("nanochat::onednn_product", mutates_args=())
def onednn_product(a_MK: Tensor, b_NK: Tensor) -> Tensor:
    """An operator of our own, because torch.compile takes oneDNN's with constant weights only."""
    return torch.ops.mkldnn._linear_pointwise(a_MK, b_NK, None, "none", [], "")


@onednn_product.register_fake
def _(a_MK: Tensor, b_NK: Tensor) -> Tensor:
    return a_MK.new_empty(a_MK.size(0), b_NK.size(0))


def weight_gradient(product: Product, grad_NO: Tensor, x_NI: Tensor) -> Tensor:
    """grad.T @ x, (O, I); taken with the shorter side as rows, as oneDNN is faster so."""
    if grad_NO.size(1) <= x_NI.size(1):
        return product(grad_NO.t(), x_NI.t())
    return product(x_NI.t(), grad_NO.t()).t()


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_NI: Tensor, weight_OI: Tensor, product: Product) -> Tensor:
        ctx.save_for_backward(x_NI, weight_OI)
        ctx.product = product
        return product(x_NI, weight_OI)

    @staticmethod
    def backward(ctx, grad_NO: Tensor):  # type: ignore[override]
        x_NI, weight_OI = ctx.saved_tensors
        return ctx.product(grad_NO, weight_OI.t()), weight_gradient(ctx.product, grad_NO, x_NI), None


def linear_through(product: Product) -> Callable[[Tensor, Tensor], Tensor]:
    """A function (x, weight_OI) -> x @ weight.T that multiplies forward and backward by `product`."""

    def linear(product: Product, x: Tensor, weight_OI: Tensor) -> Tensor:
        return _Linear.apply(x.flatten(0, -2), weight_OI, product).unflatten(0, x.shape[:-1])

    return partial(linear, product)


def choose_product(device: torch.device, dtype: torch.dtype) -> tuple[Product, str]:
    """(product, reason): oneDNN where the processor is AMD's with AVX-512 and a small trial agrees, else BLAS."""
    if device.type != "cpu" or dtype != torch.float32:
        return blas_product, "the device's own library"
    cpu = hardware.cpu()
    if cpu.vendor != "AuthenticAMD" or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return blas_product, "PyTorch's BLAS uses this processor fully"
    try:
        a, b = torch.arange(24.0).view(4, 6), torch.arange(18.0).view(3, 6)
        agrees = torch.equal(onednn_product(a, b), blas_product(a, b))
    except (RuntimeError, AttributeError) as error:  # a build without oneDNN
        return blas_product, f"oneDNN does not run: {str(error).splitlines()[0]}"
    if not agrees:
        return blas_product, "oneDNN gave another result in a trial"
    return onednn_product, "oneDNN uses AMD's AVX-512 units, MKL does not"
