"""The elementwise operators of a block, and the set of them that a model computes with.

Shapes: B rows, T tokens, H heads, D head channels; norms are over the last dimension, whatever precedes it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def norm(x: Tensor) -> Tensor:
    """RMSNorm over the last dimension, without parameters (arXiv:1910.07467)."""
    return F.rms_norm(x, (x.size(-1),))


def add_norm(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """(x + y, its norm)."""
    total = x + y
    return total, norm(total)


def mix_norm(a: Tensor, x: Tensor, b: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """(a x + b y, its norm) for scalars a and b."""
    mixed = a * x + b * y
    return mixed, norm(mixed)


def rotate(x_BTHD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair (first half, second half) of channels by its position's angle; cos, sin: (1, T, 1, D/2)."""
    a, b = x_BTHD.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def rotate_norm(x_BTHD: Tensor, cos: Tensor, sin: Tensor, gain: float) -> Tensor:
    """The norm of the rotated heads, times a gain."""
    return gain * norm(rotate(x_BTHD, cos, sin))


def relu_squared(x: Tensor) -> Tensor:
    """max(x, 0)² (arXiv:2109.08668)."""
    return F.relu(x).square()


@dataclass(frozen=True)
class Operators:
    """Implementations of this module's functions; by default those themselves, which also compile."""

    norm: Callable[[Tensor], Tensor] = norm
    add_norm: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = add_norm
    mix_norm: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] = mix_norm
    rotate_norm: Callable[[Tensor, Tensor, Tensor, float], Tensor] = rotate_norm
    relu_squared: Callable[[Tensor], Tensor] = relu_squared
