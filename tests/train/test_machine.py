"""What is said of the machine of a run."""

import pytest

from nanochat.runtime import open_runtime
from nanochat.train import machine as machines


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch):
    """FLOP/s of products → FLOP/s that training is said to reach on this CPU."""

    def of(products: float) -> float:
        monkeypatch.setattr(machines.hardware, "measure_gemm_flops", lambda _: products)
        with open_runtime("cpu", "fp32") as runtime:
            machine = machines.this_machine(runtime)
        assert machine.flops == products
        return products * machine.utilisation

    return of


def test_fast_products_leave_the_rest_of_a_step_as_it_is(reached) -> None:
    rates = [reached(flops) for flops in (1e9, 1e11, 1e12, 1e14, 1e16)]
    assert rates == sorted(rates)
    assert rates[0] == pytest.approx(1e9, rel=0.01)
    assert rates[-1] == pytest.approx(rates[-2], rel=0.1)


@pytest.mark.parametrize("text", ["2xRTX 4090", "2 x rtx4090", "2×RTX4090"])
def test_a_machine_is_named_in_any_case_with_or_without_blanks(text: str) -> None:
    machine = machines.parse_machine(text)
    assert (machine.name, machine.count, machine.memory) == ("RTX 4090", 2, 24_000_000_000)


@pytest.mark.parametrize("name", machines._GPU_MEMORY)
def test_the_rate_of_every_gpu_that_can_be_named_is_known(name: str) -> None:
    assert machines.parse_machine(name).flops
