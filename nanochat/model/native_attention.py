"""Attention in C++ (attention.cpp) for training on a CPU, two to three times as fast in bf16 as PyTorch's.

Shapes as in nanochat.model.attention.
"""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.model.attention import AttentionKernel, sdpa
from nanochat.native.library import open_library

SOURCE = Path(__file__).with_name("attention.cpp")
_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}
_TOKENS, _CHANNELS = 4, 16
"""What the numbers of tokens (in fp32) and of channels must be multiples of."""
_MOST_TOKENS = 1024
"""Longer rows do not fit a core's cache."""
_TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 0.1}


@cache
def find_native_attention(directory: Path | None) -> tuple[AttentionKernel | None, str]:
    """(the compiled kernel or None, why): from this folder of compiled code, compiled first if it is not there."""
    return open_library(SOURCE, directory, _NativeAttention, _agrees)


class _NativeAttention:
    """An AttentionKernel. Long rows, heads of other sizes, and documents that are kept apart are left to `sdpa`."""

    def __init__(self, library: ctypes.CDLL):
        pointer, count = ctypes.c_void_p, ctypes.c_int32
        self._functions = {}
        for dtype, name in _NAMES.items():
            run = getattr(library, f"attention_forward_{name}")
            gradients = getattr(library, f"attention_backward_{name}")
            run.argtypes, run.restype = [pointer, *[pointer] * 4, count], None
            gradients.argtypes, gradients.restype = [pointer, *[pointer] * 7, count], None
            self._functions[dtype] = run, gradients
        self._unit_bf16 = library.attention_unit_bf16
        self._unit_bf16.argtypes, self._unit_bf16.restype = [ctypes.c_int64], count

    def __call__(
        self, q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, window: int, documents: Tensor | None = None, /
    ) -> Tensor:
        """See AttentionKernel."""
        length, channels = q_BTHD.size(1), q_BTHD.size(3)
        if documents is not None or length > _MOST_TOKENS or channels % _CHANNELS:
            return sdpa(q_BTHD, k_BTKD, v_BTKD, window, documents)
        inputs: tuple[Tensor, ...] = (q_BTHD, k_BTKD, v_BTKD)
        missing = -length % self._unit(q_BTHD.dtype, channels)
        if missing:  # whole blocks, by tokens that no query sees
            inputs = tuple(F.pad(x, (0, 0, 0, 0, 0, missing)) for x in inputs)
        functions = self._functions[q_BTHD.dtype]
        y_BTHD: Tensor = _Attention.apply(*(x.contiguous() for x in inputs), window, functions)
        return y_BTHD[:, :length] if missing else y_BTHD

    def _unit(self, dtype: torch.dtype, channels: int) -> int:
        """Tokens of a block of queries."""
        return self._unit_bf16(channels) if dtype == torch.bfloat16 else _TOKENS  # type: ignore[no-any-return]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, window: int, functions: tuple[Any, Any]
    ) -> Tensor:
        B, T, H, D = q_BTHD.shape
        run, ctx.gradients = functions
        ctx.shape = (ctypes.c_int64 * 6)(B, T, H, k_BTKD.size(2), D, min(window, T))
        ctx.save_for_backward(q_BTHD, k_BTKD, v_BTKD)
        y_BTHD = torch.empty_like(q_BTHD)
        _call(run, ctx.shape, q_BTHD, k_BTKD, v_BTKD, y_BTHD)
        return y_BTHD

    @staticmethod
    def backward(ctx: Any, grad_BTHD: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        inputs = ctx.saved_tensors
        found = [torch.empty_like(x) for x in inputs]
        _call(ctx.gradients, ctx.shape, *inputs, grad_BTHD.contiguous(), *found)
        return (*found, None, None)


def _call(function: Any, shape: Any, *tensors: Tensor) -> None:
    function(shape, *(tensor.data_ptr() for tensor in tensors), torch.get_num_threads())


_TRIED = ((2, 96, 4, 2, 32), (1, 20, 2, 1, 16))
"""(B, T, H, K, D): whole tiles of AMX, and what they do not suit."""


def _agrees(kernel: AttentionKernel) -> bool:
    """Trials in each dtype, forward and backward, on a window and grouped heads."""
    generator = torch.Generator().manual_seed(0)
    for B, T, H, K, D in _TRIED:
        drawn = [torch.randn(B, T, heads, D, generator=generator) for heads in (H, K, K)]
        for dtype, tolerance in _TOLERANCES.items():
            rounded = [x.to(dtype) for x in drawn]
            expected = _tried(sdpa, [x.float() for x in rounded])
            errors = (
                (ours.float() - theirs).abs().max().item()
                for ours, theirs in zip(_tried(kernel, rounded), expected, strict=True)
            )
            if not all(error < tolerance for error in errors):
                return False
    return True


def _tried(attend: AttentionKernel, inputs: list[Tensor]) -> list[Tensor]:
    """What is attended, and the gradients of its sum with respect to queries, keys and values."""
    q, k, v = (x.clone().requires_grad_() for x in inputs)
    y_BTHD = attend(q, k, v, 20)
    return [y_BTHD, *torch.autograd.grad(y_BTHD.float().square().sum(), (q, k, v))]
