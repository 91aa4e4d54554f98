"""Weights as decode.cpp reads them: in panels of 64 outputs, as floats, bf16 or int8.

Shapes: O outputs and I inputs of a matrix, P panels.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.infer.frozen import WeightsName, int8_scales

LANES = 16
"""Sizes are multiples of this: whole vectors on every processor."""
_PANEL = 64


def _panels(weight_OI: Tensor) -> Tensor:
    """(P, I, 64): the layout that decode.cpp reads; the last panel is filled up with zeros."""
    inputs = weight_OI.size(1)
    return F.pad(weight_OI, (0, 0, 0, -len(weight_OI) % _PANEL)).view(-1, _PANEL, inputs).mT.contiguous()


def _words(parts: Tensor, bits: int) -> Tensor:
    """int32 words whose v-th group of bits, from the lowest, is the v-th integer of the last dimension."""
    masked = parts.to(torch.int64) & ((1 << bits) - 1)
    shifted = masked << (bits * torch.arange(parts.size(-1)))
    return shifted.sum(dim=-1).to(torch.uint32).view(torch.int32).contiguous()


def _pack_fp32(weight_OI: Tensor) -> tuple[int, Tensor, None]:
    return 0, _panels(weight_OI), None


def _pack_bf16(weight_OI: Tensor) -> tuple[int, Tensor, None]:
    bits_PIO = _panels(weight_OI).to(torch.bfloat16).view(torch.int16)
    # A word holds an output's weights of input i and of the one half of all inputs further on.
    return 1, _words(bits_PIO.unflatten(1, (2, -1)).movedim(1, -1), 16), None


def _pack_int8(weight_OI: Tensor) -> tuple[int, Tensor, Tensor]:
    scales_O1 = int8_scales(weight_OI)
    integers = _panels((weight_OI / scales_O1).round()).to(torch.int8)
    scales_O = F.pad(scales_O1.flatten(), (0, -len(scales_O1) % _PANEL))
    return 2, _words(integers.unflatten(-1, (-1, LANES)).mT, 8), scales_O


PACKS: dict[WeightsName, Callable[[Tensor], tuple[int, Tensor, Tensor | None]]] = {
    "fp32": _pack_fp32,
    "bf16": _pack_bf16,
    "int8": _pack_int8,
}
"""weight (O, I) → (kind as in decode.cpp, packed weights, scales or None)."""
