"""The loss of a chunk of logits on a CPU in C++ (loss.cpp), about ten times as fast as PyTorch's operators.

Unlike decoding, training does not begin without it: a run must compute the same from its first step to its last.
"""

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from nanochat.model.loss import IGNORE, ChunkLoss, chunk_loss
from nanochat.native.library import open_library

SOURCE = Path(__file__).with_name("loss.cpp")
_TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 0.005}
"""Gradients lie between -1 and 1, where bf16 is exact to 0.002."""
_FUNCTIONS = {torch.float32: "chunk_loss_fp32", torch.bfloat16: "chunk_loss_bf16"}


@cache
def find_native_loss(directory: Path | None) -> tuple[ChunkLoss | None, str]:
    """(the compiled loss or None, why): from this folder of compiled code, compiled first if it is not there."""
    return open_library(SOURCE, directory, _NativeLoss, _agrees)


class _NativeLoss:
    """A ChunkLoss. Overwrites the logits with their gradient."""

    def __init__(self, library: ctypes.CDLL):
        pointer, size = ctypes.c_void_p, ctypes.c_int64
        self._functions = {dtype: getattr(library, name) for dtype, name in _FUNCTIONS.items()}
        for function in self._functions.values():
            function.argtypes = [pointer, pointer, size, size, ctypes.c_float, pointer, ctypes.c_int32]
            function.restype = None

    def __call__(self, raw_NV: Tensor, targets_N: Tensor, cap: float) -> tuple[Tensor, Tensor]:
        """See nanochat.model.loss.chunk_loss, which computes the logits of models without a cap."""
        if not cap:
            return chunk_loss(raw_NV, targets_N, cap)
        raw_NV, targets_N = raw_NV.contiguous(), targets_N.contiguous()
        nats_N = torch.empty(len(raw_NV))
        self._functions[raw_NV.dtype](
            raw_NV.data_ptr(),
            targets_N.data_ptr(),
            *raw_NV.shape,
            cap,
            nats_N.data_ptr(),
            torch.get_num_threads(),
        )
        return nats_N, raw_NV


def _agrees(loss: ChunkLoss) -> bool:
    """A trial in each dtype, on logits that fill no whole vectors and reach the cap."""
    drawn_NV = 20 * torch.randn(8, 67, generator=torch.Generator().manual_seed(0))
    targets_N = torch.tensor([0, 66, 13, IGNORE, 5, 63, 64, 31])
    for dtype, tolerance in _TOLERANCES.items():
        raw_NV = drawn_NV.to(dtype, copy=True)  # the loss overwrites it
        expected = chunk_loss(raw_NV.float().clone(), targets_N, 15.0)
        for actual, exact in zip(loss(raw_NV, targets_N, 15.0), expected, strict=True):
            if not (actual.float() - exact).abs().max().item() < tolerance:
                return False
    return True
