"""Every library gives the same products and gradients."""

import pytest
import torch

from nanochat import hardware
from nanochat.model import matmul


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")
@pytest.mark.parametrize(("n", "n_in", "n_out"), [(3, 8, 5), (64, 16, 48), (50, 48, 16), (1, 7, 7)])
def test_linear_through_onednn_equals_torch(n: int, n_in: int, n_out: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, n, n_in, generator=generator, requires_grad=True)
    weight = torch.randn(n_out, n_in, generator=generator, requires_grad=True)
    upstream = torch.randn(2, n, n_out, generator=generator)
    results = []
    for linear in (matmul.onednn_linear, torch.nn.functional.linear):
        y = linear(x, weight)
        results.append((y, *torch.autograd.grad(y, (x, weight), upstream)))
    torch.testing.assert_close(results[0], results[1], atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")
@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("rows", [1, 8, 50])
def test_a_frozen_layer_equals_torch_whether_its_weight_is_packed_or_not(
    monkeypatch: pytest.MonkeyPatch, packs: bool, rows: int
) -> None:
    generator = torch.Generator().manual_seed(2)
    x, weight = torch.randn(2, rows, 24, generator=generator), torch.randn(24, 40, generator=generator).t()
    if not packs:
        monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", refuse)
    for freeze in matmul.FROZEN.values():
        torch.testing.assert_close(freeze(weight)(x), x @ weight.t(), atol=1e-4, rtol=1e-4)


def refuse(*_: object) -> torch.Tensor:
    raise RuntimeError("no such operator")


@pytest.mark.parametrize(("n_in", "n_out"), [(4, 9), (9, 4)])
def test_weight_gradient_is_the_same_either_way_round(n_in: int, n_out: int) -> None:
    generator = torch.Generator().manual_seed(1)
    grad, x = torch.randn(20, n_out, generator=generator), torch.randn(20, n_in, generator=generator)
    torch.testing.assert_close(matmul.weight_gradient(matmul.blas_product, grad, x), grad.t() @ x)


@pytest.mark.parametrize(
    ("vendor", "capability", "trial", "expected"),
    [
        ("AuthenticAMD", "AVX512", matmul.blas_product, "oneDNN"),
        ("AuthenticAMD", "AVX512", lambda a, b: matmul.blas_product(a, b) + 1, "BLAS"),
        ("AuthenticAMD", "AVX512", lambda a, b: torch.ops.mkldnn.no_such_operator(a, b), "BLAS"),
        ("AuthenticAMD", "AVX2", matmul.blas_product, "BLAS"),
        ("GenuineIntel", "AVX512", matmul.blas_product, "BLAS"),
        (None, "AVX512", matmul.blas_product, "BLAS"),
    ],
    ids=["amd", "wrong result", "no oneDNN", "no AVX-512", "intel", "unknown"],
)
def test_the_choice_follows_from_the_processor_and_a_trial(
    monkeypatch: pytest.MonkeyPatch,
    vendor: str | None,
    capability: str,
    trial: matmul.Product,
    expected: matmul.ProductName,
) -> None:
    monkeypatch.setattr(hardware, "cpu", lambda: hardware.Cpu("some CPU", vendor, 2, 2, 2.0, ("AVX2",)))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(matmul, "onednn_product", trial)
    product, reason = matmul.choose_product(torch.device("cpu"), torch.float32)
    assert product == expected
    assert reason
    assert matmul.choose_product(torch.device("cpu"), torch.bfloat16)[0] == "BLAS"
