"""Schedules as curves: where they start, where they peak, where they end."""

from hypothesis import given
from hypothesis import strategies as st

from nanochat.optim.schedule import Schedule

REFERENCE = Schedule(
    total_steps=1000, warmup_steps=40, warmdown_fraction=0.65, final_lr=0.05, momentum_warmup_steps=200
)


def test_known_points() -> None:
    assert REFERENCE.lr(0) == 1 / 40
    assert REFERENCE.lr(39) == REFERENCE.lr(300) == 1
    assert abs(REFERENCE.lr(999) - 0.05) < 1e-12
    assert [Schedule(2, 0, 1.0, 0.0, 0).lr(step) for step in range(2)] == [1, 0.5]
    assert Schedule(1, 0, 0.5, 0.0, 0).lr(0) == 1
    assert REFERENCE.momentum(0) == 0.85
    assert abs(REFERENCE.momentum(200) - 0.97) < 1e-12
    assert abs(REFERENCE.momentum(999) - 0.90) < 1e-12
    assert REFERENCE.weight_decay(0) == 1
    assert abs(REFERENCE.weight_decay(500) - 0.5) < 1e-12


@given(
    total=st.integers(1, 500),
    warmup=st.integers(0, 50),
    warmdown=st.floats(0, 1),
    final=st.just(0.0) | st.floats(1e-6, 1),
    ramp=st.integers(0, 100),
)
def test_stays_in_range_at_every_step(
    total: int, warmup: int, warmdown: float, final: float, ramp: int
) -> None:
    schedule = Schedule(total, warmup, warmdown, final, ramp)
    for step in range(total):
        assert 0 < schedule.lr(step) <= 1
        assert 0.85 - 1e-9 <= schedule.momentum(step) <= 0.97 + 1e-9
        assert 0 <= schedule.weight_decay(step) <= 1
