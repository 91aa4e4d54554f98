"""The compiled operators compute what PyTorch's do, for all shapes, and never less exactly."""

import math
import struct
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nanochat.model import native_operators
from nanochat.model.backend import REFERENCE
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.model.native_operators import find_native_operators
from nanochat.model.operators import Operators, rotate
from nanochat.native.library import compiler


def exact_norm(x: Tensor) -> Tensor:
    """In fp64 with the ε that PyTorch takes in fp32 and bf16."""
    return F.rms_norm(x, (x.size(-1),), eps=torch.finfo(torch.float32).eps)


EXACT = Operators(
    norm=exact_norm,
    add_norm=lambda x, y: (x + y, exact_norm(x + y)),
    mix_norm=lambda a, x, b, y: (a * x + b * y, exact_norm(a * x + b * y)),
    rotate_norm=lambda x, cos, sin, gain: gain * exact_norm(rotate(x, cos, sin)),
)
NAMES = [field.name for field in fields(Operators)]
BF16 = torch.bfloat16

pytestmark = [
    pytest.mark.slow,  # it is compiled first
    pytest.mark.skipif(compiler() is None, reason="no C++ compiler"),
]


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("code")


@pytest.fixture(scope="module")
def native(code: Path) -> Operators:
    found, why = find_native_operators(code)
    assert found is not None, why
    return found


def drawn(seed: int, shape: tuple[int, ...], strided: bool = False) -> Tensor:
    """Random numbers that bf16 represents; strided: a view of every second number of a wider tensor."""
    generator = torch.Generator().manual_seed(seed)
    if strided:
        return torch.randn(*shape[:-1], 2 * shape[-1], generator=generator).to(BF16).float()[..., ::2]
    return torch.randn(shape, generator=generator).to(BF16).float()


def tried(
    operators: Operators,
    name: str,
    dtype: torch.dtype,
    shape: tuple[int, int, int, int],
    seed: int = 0,
    strided: bool = False,
) -> list[Tensor]:
    """An operator's results, and the gradients of its inputs, fp64."""
    _, length, _, channels = shape
    angles = torch.outer(torch.arange(length), torch.linspace(0.1, 1, channels // 2))[None, :, None]
    cos, sin = (table.to(BF16).to(dtype) for table in (angles.cos(), angles.sin()))
    calls: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]]]] = {
        "norm": (operators.norm, [shape]),
        "add_norm": (operators.add_norm, [shape, shape]),
        "mix_norm": (operators.mix_norm, [(), shape, (), shape]),
        "rotate_norm": (lambda x: operators.rotate_norm(x, cos, sin, 1.25), [shape]),
        "relu_squared": (operators.relu_squared, [shape]),
    }
    call, shapes = calls[name]
    inputs = [
        drawn(seed + i, each, strided and len(each) > 1).to(dtype).requires_grad_()
        for i, each in enumerate(shapes)
    ]
    found = call(*inputs)
    results = [found] if isinstance(found, Tensor) else list(found)
    weights = [drawn(seed + 10 + i, shape, strided).to(dtype) for i in range(len(results))]
    gradients = torch.autograd.grad(results, inputs, weights)
    assert all(x.dtype == dtype for x in (*results, *gradients))
    assert all(x.shape == y.shape for x, y in zip(inputs, gradients, strict=True))
    return [x.detach().double() for x in (*results, *gradients)]


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    shape=st.tuples(st.integers(0, 3), st.integers(1, 40), st.integers(1, 5), st.integers(3, 40)),
    dtype=st.sampled_from([torch.float32, BF16]),
    strided=st.booleans(),
    seed=st.integers(0, 999),
)
def test_values_and_gradients_are_those_of_fp64(
    native: Operators,
    name: str,
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    strided: bool,
    seed: int,
) -> None:
    batch, length, heads, half = shape
    whole = (batch, length, heads, 2 * half if name == "rotate_norm" else 2 * half - 1)
    expected = tried(EXACT, name, torch.float64, whole, seed, strided)
    found = tried(native, name, dtype, whole, seed, strided)
    tolerance = 2e-5 if dtype == torch.float32 else 0.015
    for ours, exact in zip(found, expected, strict=True):
        largest = float(exact.abs().max()) if exact.numel() else 0.0
        # A number's gradient is a sum over all elements: its terms may cancel, while their rounding errors add up
        # (3,000 cases: up to 0.06 times the root of their number, in PyTorch too).
        spread = 6 * math.sqrt(math.prod(whole)) if exact.ndim == 0 else 1.0
        assert ((ours - exact).abs() <= tolerance * max(largest, spread)).all()


@pytest.mark.parametrize("name", NAMES)
def test_bf16_is_never_less_exact_than_pytorch(native: Operators, name: str) -> None:
    shape = (4, 64, 3, 50)
    exact = tried(EXACT, name, torch.float64, shape)
    ours, theirs = tried(native, name, BF16, shape), tried(Operators(), name, BF16, shape)
    for a, b, c in zip(ours, theirs, exact, strict=True):
        one_rounding = 2.0**-9 * float(c.norm())
        assert float((a - c).norm()) <= max(one_rounding, float((b - c).norm()))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_depends_on_the_number_of_threads(native: Operators, name: str) -> None:
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(tried(native, name, BF16, (3, 50, 2, 38)))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, BF16])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(native: Operators, dtype: torch.dtype, bad: float) -> None:
    """A step looks for it in the loss and in the gradients."""
    x = torch.ones(2, 3, 2, 20, dtype=dtype)
    x[1, 1, 1, 7] = bad
    other, one = torch.ones_like(x), torch.ones((), dtype=dtype)
    cos, sin = torch.ones(1, 3, 1, 10, dtype=dtype), torch.zeros(1, 3, 1, 10, dtype=dtype)
    for y in (
        native.norm(x),
        native.add_norm(x, other)[1],
        native.mix_norm(one, other, one, x)[0],
        native.rotate_norm(x, cos, sin, 1.0),
        native.relu_squared(x),
    ):
        assert not y[1, 1, 1].isfinite().all()
        assert y[0].isfinite().all()


def test_a_model_computes_the_same_with_them(native: Operators, code: Path) -> None:
    config = GPTConfig(
        vocab_size=50, max_seq_len=32, n_layer=2, n_head=3, n_kv_head=3, head_dim=16, n_embd=48
    )
    ids = torch.randint(50, (3, 32), generator=torch.Generator().manual_seed(0))
    found = []
    for backend in (REFERENCE, replace(REFERENCE, native=True, code_cache=code)):
        model = GPT(config, backend)
        model.init_weights(0)
        with torch.no_grad():
            for parameter in model.parameters():  # also those that begin as zero
                parameter += 0.02
        nats, _ = model.loss(model(ids), ids.roll(-1, 1))
        nats.backward()
        found.append([nats.detach(), *(parameter.grad for parameter in model.parameters())])
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))
    assert any(not torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrong", ["value", "gradient"])
def test_the_trial_refuses_an_operator_that_is_wrong(native: Operators, name: str, wrong: str) -> None:
    def off(y: Tensor) -> Tensor:
        value, gradient = {"value": (1.02, 1.0), "gradient": (1.0, 1.02)}[wrong]
        return value * y.detach() + gradient * (y - y.detach())

    def mutant(*inputs: Any) -> Any:
        found = getattr(native, name)(*inputs)
        return off(found) if isinstance(found, Tensor) else (found[0], off(found[1]))

    assert native_operators._agrees(native)
    assert not native_operators._agrees(replace(native, **{name: mutant}))


@pytest.mark.parametrize("dtype", native_operators._TOLERANCES)
def test_a_library_with_other_results_is_refused(
    code: Path, native: Operators, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setitem(native_operators._TOLERANCES, dtype, 0.0)
    found, why = find_native_operators.__wrapped__(code)
    assert found is None
    assert "differs from PyTorch's" in why


@pytest.mark.parametrize("bits", ["7fffffffffffffff", "7ff8000000000000", "ffffffffffffffff"])
@pytest.mark.parametrize("channels", [32, 42])
def test_no_nan_is_rounded_to_a_number(native: Operators, bits: str, channels: int) -> None:
    (nan,) = struct.unpack(">d", bytes.fromhex(bits))  # the first one is what a GPU calls NaN
    angles = torch.zeros(1, 5, 1, channels // 2, dtype=BF16)
    found = native.rotate_norm(torch.ones(2, 5, 3, channels, dtype=BF16), angles.cos(), angles.sin(), nan)
    assert found.isnan().all()
