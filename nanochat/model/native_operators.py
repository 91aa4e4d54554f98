"""The operators of a block in C++ (operators.cpp) for training on a CPU: one pass over memory forward, one backward.

PyTorch's need up to ten each. Inputs may be fp32 or bf16; the arithmetic is fp32's.
"""

import ctypes
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanochat.model.operators import Operators
from nanochat.native.library import open_library

SOURCE = Path(__file__).with_name("operators.cpp")
_TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16"}
_TOLERANCES = {torch.float32: 3e-5, torch.bfloat16: 0.01}
"""Relative to the largest number of a result."""


@cache
def find_native_operators(directory: Path | None) -> tuple[Operators | None, str]:
    """(the compiled operators or None, why): from this folder of compiled code, compiled first if not there."""
    return open_library(SOURCE, directory, _bind, _agrees)


class _Compiled:
    """The two C++ functions of an operator, for each dtype."""

    def __init__(self, library: ctypes.CDLL, name: str):
        self.forward, self.backward = (
            {dtype: _function(library, f"{name}_{way}_{ending}") for dtype, ending in _TYPES.items()}
            for way in ("forward", "backward")
        )


def _function(library: ctypes.CDLL, name: str) -> Any:
    function = getattr(library, name)
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_float, ctypes.c_int32]
    function.restype = None
    return function


def _call(
    functions: dict[torch.dtype, Any],
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    sizes: Iterable[int],
    factor: float = 1.0,
) -> None:
    """Compute the outputs from the inputs: contiguous tensors, all of one dtype."""
    tensors = [*inputs, *outputs]
    assert all(tensor.dtype == tensors[0].dtype for tensor in tensors)
    addresses = (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))
    lengths = (ctypes.c_int64 * 4)(*sizes)
    functions[tensors[0].dtype](addresses, lengths, factor, torch.get_num_threads())


def _rows(x: Tensor) -> tuple[int, int]:
    """(rows, length of a row)."""
    return x.numel() // max(1, x.size(-1)), x.size(-1)


def _bind(library: ctypes.CDLL) -> Operators:
    def bound(function: type[torch.autograd.Function], name: str) -> Callable[..., Any]:
        compiled = _Compiled(library, name)
        return lambda *inputs: function.apply(compiled, *inputs)

    return Operators(
        norm=bound(_Unary, "norm"),
        add_norm=bound(_AddNorm, "add_norm"),
        mix_norm=bound(_MixNorm, "mix_norm"),
        rotate_norm=bound(_RotateNorm, "rotate_norm"),
        relu_squared=bound(_Unary, "relu_squared"),
    )


class _Unary(torch.autograd.Function):
    """A function of one tensor whose gradient needs only its input."""

    @staticmethod
    def forward(ctx: Any, compiled: _Compiled, x: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.gradients = compiled.backward
        ctx.save_for_backward(x)
        y = torch.empty_like(x)
        _call(compiled.forward, [x], [y], _rows(x))
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        dx = torch.empty_like(x)
        _call(ctx.gradients, [x, grad.contiguous()], [dx], _rows(x))
        return None, dx


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, compiled: _Compiled, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        assert x.shape == y.shape
        x, y = x.contiguous(), y.contiguous()
        total, normed = torch.empty_like(x), torch.empty_like(x)
        _call(compiled.forward, [x, y], [total, normed], _rows(x))
        ctx.gradients = compiled.backward
        ctx.save_for_backward(total)
        return total, normed

    @staticmethod
    def backward(ctx: Any, passed: Tensor, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (total,) = ctx.saved_tensors
        found = torch.empty_like(total)
        _call(ctx.gradients, [total, passed.contiguous(), grad.contiguous()], [found], _rows(total))
        return None, found, found


class _MixNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, compiled: _Compiled, a: Tensor, x: Tensor, b: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        assert x.shape == y.shape
        x, y = x.contiguous(), y.contiguous()
        mixed, normed = torch.empty_like(x), torch.empty_like(x)
        _call(compiled.forward, [a, x, b, y], [mixed, normed], _rows(x))
        ctx.gradients = compiled.backward
        ctx.save_for_backward(a, x, b, y, mixed)
        return mixed, normed

    @staticmethod
    def backward(ctx: Any, passed: Tensor, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        saved = ctx.saved_tensors
        found = [torch.empty_like(x) for x in saved[:4]]
        _call(ctx.gradients, [*saved, passed.contiguous(), grad.contiguous()], found, _rows(saved[1]))
        return None, *found


class _RotateNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, compiled: _Compiled, x_BTHD: Tensor, cos: Tensor, sin: Tensor, gain: float
    ) -> Tensor:
        assert 2 * cos.numel() == 2 * sin.numel() == x_BTHD.size(1) * x_BTHD.size(3)
        inputs = [x.contiguous() for x in (x_BTHD, cos, sin)]
        y_BTHD = torch.empty_like(inputs[0])
        _call(compiled.forward, inputs, [y_BTHD], x_BTHD.shape, gain)
        ctx.gradients, ctx.gain = compiled.backward, gain
        ctx.save_for_backward(*inputs)
        return y_BTHD

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        inputs = ctx.saved_tensors
        dx = torch.empty_like(inputs[0])
        _call(ctx.gradients, [*inputs, grad.contiguous()], [dx], dx.shape, ctx.gain)
        return None, dx, None, None, None


def _agrees(operators: Operators) -> bool:
    """A trial of each operator in each dtype, forward and backward, on rows that fill no whole vectors."""
    for dtype, tolerance in _TOLERANCES.items():
        for (ours, shapes), (theirs, _) in zip(_trials(operators), _trials(Operators()), strict=True):
            draw = torch.Generator().manual_seed(0)
            inputs = [torch.randn(shape, generator=draw).to(dtype) for shape in shapes]
            found = _tried(ours, inputs)
            expected = _tried(theirs, [x.float() for x in inputs])
            if not all(
                (a.float() - b).abs().max() <= tolerance * b.abs().max()
                for a, b in zip(found, expected, strict=True)
            ):
                return False
    return True


def _trials(operators: Operators) -> list[tuple[Callable[..., Any], tuple[tuple[int, ...], ...]]]:
    """Every operator, as a function of tensors that have gradients, with their shapes."""
    heads = (2, 35, 3, 42)
    angles = torch.linspace(0, 3, 35 * 21).view(1, 35, 1, 21)

    def rotate_norm(x: Tensor) -> Tensor:
        return operators.rotate_norm(x, angles.cos().to(x.dtype), angles.sin().to(x.dtype), 1.25)

    return [
        (operators.norm, (heads,)),
        (operators.add_norm, (heads, heads)),
        (operators.mix_norm, ((), heads, (), heads)),
        (rotate_norm, (heads,)),
        (operators.relu_squared, (heads,)),
    ]


def _tried(operator: Callable[..., Any], inputs: list[Tensor]) -> list[Tensor]:
    """An operator's results, and the gradients of a sum of them with random weights."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    found = operator(*leaves)
    results = [found] if isinstance(found, Tensor) else [*found]
    draw = torch.Generator().manual_seed(1)
    weights = [torch.randn(y.shape, generator=draw).bfloat16().to(y.dtype) for y in results]
    return [*results, *torch.autograd.grad(results, leaves, weights)]
