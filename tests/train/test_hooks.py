"""How often training evaluates, by a clock that only the simulated work moves."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanochat.metrics import Metrics, open_metrics
from nanochat.processes import Processes
from nanochat.train import hooks


@dataclass
class Run:
    """Steps and evaluations that take simulated seconds, and where it evaluated."""

    every: int
    share: float
    step_s: float
    evaluation_s: float
    metrics: Metrics
    now: float = 0.0
    spent: float = 0.0
    at: list[int] = field(default_factory=list)

    def score(self, trainer: Any) -> dict[str, float]:
        self.at.append(trainer.progress.step)
        self.now += self.evaluation_s
        self.spent += self.evaluation_s
        return {"val_bpb": 1.0}

    def train(self, steps: int) -> None:
        evaluate = hooks.Evaluate(self.every, self.score, self.metrics, self.share, clock=lambda: self.now)
        runtime = SimpleNamespace(processes=Processes())
        for step in range(1, steps + 1):
            self.now += self.step_s
            progress = SimpleNamespace(step=step)
            trainer = SimpleNamespace(
                model=torch.nn.Identity(), runtime=runtime, progress=progress, finished=step == steps
            )
            before = len(self.at)
            evaluate.after_step(trainer, None, last=False)  # type: ignore[arg-type]
            if len(self.at) > max(before, 1) and step < steps:
                assert self.spent <= self.share * self.now * (1 + 1e-9)


@pytest.fixture
def metrics(tmp_path):
    with open_metrics(
        tmp_path / "metrics.jsonl", "pretrain", wandb_run=None, config=None, resume=False, enabled=False
    ) as opened:
        yield opened


@given(
    st.integers(1, 20),
    st.floats(0.01, 1.0),
    st.floats(0.01, 10),
    st.floats(0.01, 100),
    st.integers(1, 200),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_evaluations_keep_to_their_share_and_come_at_the_end(
    metrics, every, share, step_s, evaluation_s, steps
):
    run = Run(every, share, step_s, evaluation_s, metrics)
    run.train(steps)
    assert run.at[-1] == steps
    assert run.at[0] == min(every, steps)
    assert run.at == sorted(set(run.at))


def test_without_a_limit_every_nth_step_is_evaluated(metrics):
    run = Run(7, 1.0, 1.0, 1000.0, metrics)
    run.train(30)
    assert run.at == [7, 14, 21, 28, 30]


def test_the_share_is_used(metrics):
    """Put off, not left out: nearly all of the share is taken."""
    run = Run(1, 0.05, 1.0, 3.0, metrics)
    run.train(5000)
    assert run.spent == pytest.approx(0.05 * run.now, rel=0.05)
