"""Each kernel against the same arithmetic written plainly in float64."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nanochat.optim import kernels


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(2, 24), columns=st.integers(2, 24), seed=st.integers(0, 99))
def test_orthogonalised_singular_values_are_near_one(rows: int, columns: int, seed: int) -> None:
    matrices = random(3, rows, columns, seed=seed)
    before = torch.linalg.svdvals(matrices)
    after = torch.linalg.svdvals(kernels.orthogonalise(matrices, 5, torch.float32))
    well_conditioned = before > 0.02 * before[:, :1]
    assert after.max() < 1.25
    assert after[well_conditioned].min() > 0.7


def test_orthogonalise_equals_float64_reference() -> None:
    matrix = random(1, 12, 20)
    x = matrix[0].double()
    x = x / (x.norm() * 1.02)
    for a, b, c in kernels.POLAR_EXPRESS:
        x = a * x + b * (x @ x.T @ x) + c * (x @ x.T @ x @ x.T @ x)
    torch.testing.assert_close(
        kernels.orthogonalise(matrix, 5, torch.float32)[0].double(), x, atol=1e-4, rtol=1e-4
    )
    tall = kernels.orthogonalise(matrix.mT, 5, torch.float32)
    torch.testing.assert_close(tall[0].T.double(), x, atol=1e-4, rtol=1e-4)
    assert tall.is_contiguous()


def test_bf16_orthogonalisation_stays_near_fp32() -> None:
    matrices = random(2, 16, 16)
    exact, rough = (kernels.orthogonalise(matrices, 5, dtype) for dtype in (torch.float32, torch.bfloat16))
    assert rough.dtype == torch.float32
    assert ((rough - exact).norm() / exact.norm()).item() < 0.1


def test_equilibrated_rows_have_the_mean_norm() -> None:
    matrices = random(2, 5, 7) * torch.logspace(-3, 3, 5)[:, None]
    norms = kernels.equilibrate_rows(matrices).norm(dim=-1)
    torch.testing.assert_close(norms, matrices.norm(dim=-1).mean(dim=-1, keepdim=True).expand_as(norms))


def test_nesterov_equals_its_formula_over_steps() -> None:
    buffer, expected = torch.zeros(4), torch.zeros(4, dtype=torch.float64)
    for step in range(5):
        gradient, momentum = random(4, seed=step), 0.8 + 0.03 * step
        expected = momentum * expected + (1 - momentum) * gradient.double()
        direction = (1 - momentum) * gradient.double() + momentum * expected
        torch.testing.assert_close(kernels.nesterov(gradient, buffer, momentum).double(), direction)
    torch.testing.assert_close(buffer.double(), expected)


@pytest.mark.parametrize("shape", [(2, 8, 4), (2, 4, 8)])
def test_normuon_divides_by_each_neurons_rms_and_keeps_the_norm(shape: tuple[int, ...]) -> None:
    rows_are_neurons = shape[1] >= shape[2]
    second = torch.zeros((2, shape[1], 1) if rows_are_neurons else (2, 1, shape[2]))
    expected = second.double()
    for step in range(4):
        update = random(*shape, seed=step)
        mean = update.double().square().mean(dim=-1 if rows_are_neurons else -2, keepdim=True)
        expected = 0.9 * expected + 0.1 * mean
        plain = update.double() / expected.sqrt()
        plain *= update.double().norm(dim=(1, 2), keepdim=True) / plain.norm(dim=(1, 2), keepdim=True)
        ours = kernels.normalise_neurons(update, second, 0.9)
        torch.testing.assert_close(ours.double(), plain, atol=1e-6, rtol=1e-5)


def test_cautious_decay_pulls_only_where_it_agrees_with_the_update() -> None:
    weights, updates = torch.tensor([1.0, -1.0, 1.0, -1.0]), torch.tensor([0.5, 0.5, -0.5, -0.5])
    kernels.cautious_step(weights, updates, lr=0.1, weight_decay=2.0)
    torch.testing.assert_close(weights, torch.tensor([1 - 0.25, -1 - 0.05, 1 + 0.05, -1 + 0.25]))


@pytest.mark.parametrize("adamw_step", [kernels.adamw_step, kernels.fused_adamw_step])
def test_adamw_equals_torch(adamw_step: Callable[..., None]) -> None:
    ours, theirs = random(6).clone(), torch.nn.Parameter(random(6).clone())
    moments = torch.zeros(6), torch.zeros(6)
    reference = torch.optim.AdamW([theirs], lr=0.01, betas=(0.8, 0.95), eps=1e-10, weight_decay=0.0)
    for step in range(1, 8):
        gradient = random(6, seed=step)
        theirs.grad = gradient.clone()
        reference.step()
        adamw_step(ours, gradient, *moments, step=step, lr=0.01, beta1=0.8, beta2=0.95, eps=1e-10)
    torch.testing.assert_close(ours, theirs.data)


def test_fused_adamw_reads_a_transposed_gradient() -> None:
    results = []
    for step in (kernels.adamw_step, kernels.fused_adamw_step):
        weights, first, second = (torch.zeros(3, 5) for _ in range(3))
        step(weights, random(5, 3).t(), first, second, step=1, lr=0.01, beta1=0.8, beta2=0.95, eps=1e-3)
        results.append((weights, first, second))
    torch.testing.assert_close(results[0], results[1])


def test_polar_express_maps_every_singular_value_near_one() -> None:
    """The polynomials alone, from the smallest value they are designed for."""
    x = torch.logspace(math.log10(3e-3), 0, 200, dtype=torch.float64)
    for a, b, c in kernels.POLAR_EXPRESS:
        x = a * x + b * x**3 + c * x**5
    assert x.min() > 0.85
    assert x.max() < 1.15
