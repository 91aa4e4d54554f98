"""fp8 by emulation on a CPU: the rounding is fp8's, and the products are what the scales promise."""

import math
from dataclasses import replace

import pytest
import torch

from nanochat.model import fp8
from nanochat.model.backend import REFERENCE
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.model.layers import Linear


@pytest.mark.parametrize(("dtype", "relative"), [(fp8.FORWARD, 2**-4), (fp8.BACKWARD, 2**-3)])
@pytest.mark.parametrize("magnitude", [1e-6, 1.0, 1e5])
def test_quantising_keeps_each_number_within_the_formats_rounding(
    dtype: torch.dtype, relative: float, magnitude: float
) -> None:
    x = magnitude * (1 + torch.rand(1000, generator=torch.Generator().manual_seed(0)))
    quantised, scale = fp8.quantise(x, dtype)
    error = (quantised.float() * scale - x).abs() / x
    assert error.max() <= relative
    assert quantised.float().abs().max() == torch.finfo(dtype).max


def test_zeros_stay_zeros() -> None:
    quantised, scale = fp8.quantise(torch.zeros(4), fp8.FORWARD)
    assert torch.equal(quantised.float() * scale, torch.zeros(4))


def test_linear_and_its_gradients_are_near_the_exact_ones() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 24, 64, generator=generator, requires_grad=True)
    weight = torch.randn(32, 64, generator=generator, requires_grad=True)
    target = torch.randn(2, 24, 32, generator=generator)
    bound = math.hypot(2**-3, 2**-4) / 3**0.5  # both factors rounded, errors spread evenly up to half a step
    gradients = []
    for y in (fp8.fp8_linear(x, weight), x @ weight.t()):
        gradients.append((y.detach(), *torch.autograd.grad((y * target).sum(), (x, weight))))
    for rough, exact in zip(*gradients, strict=True):
        assert ((rough - exact).norm() / exact.norm()).item() < bound


def test_products_are_those_of_the_rounded_factors() -> None:
    generator = torch.Generator().manual_seed(2)
    x, weight = torch.randn(16, 32, generator=generator), torch.randn(16, 32, generator=generator)
    (x8, x_scale), (w8, w_scale) = fp8.quantise(x, fp8.FORWARD), fp8.quantise(weight, fp8.FORWARD)
    expected = (x8.double() * x_scale.double()) @ (w8.double() * w_scale.double()).t()
    torch.testing.assert_close(fp8.fp8_linear(x, weight).double(), expected, atol=1e-4, rtol=1e-4)


def test_only_forward_products_are_summed_in_few_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight's gradient sums over all tokens of a micro-batch."""
    fast: list[bool] = []

    def scaled_mm(a: torch.Tensor, b: torch.Tensor, **settings: object) -> torch.Tensor:
        fast.append(bool(settings["use_fast_accum"]))
        return a.float() @ b.float()

    monkeypatch.setattr(fp8, "has_fp8", lambda device: True)
    monkeypatch.setattr(torch, "_scaled_mm", scaled_mm)
    x, weight = torch.randn(16, 32, requires_grad=True), torch.randn(16, 32, requires_grad=True)
    fp8.fp8_linear(x, weight).sum().backward()
    assert fast == [True, False, False]


def test_a_model_multiplies_its_blocks_in_fp8_and_still_learns() -> None:
    config = GPTConfig(
        max_seq_len=16, vocab_size=64, n_layer=2, n_head=2, n_kv_head=2, head_dim=16, n_embd=32
    )
    model = GPT(config, replace(REFERENCE, fp8=True))
    model.init_weights(0)
    in_fp8 = [m for m in model.modules() if isinstance(m, Linear) and m.multiply is fp8.fp8_linear]
    assert len(in_fp8) == 12  # q, k, v, out, up, down of two layers
    ids = torch.randint(0, 64, (2, 16), generator=torch.Generator().manual_seed(3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(12):
        nats, count = model.loss(model(ids), ids)
        (nats / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append((nats / count).item())
    assert losses[-1] < 0.5 * losses[0]
