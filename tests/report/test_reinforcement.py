"""The report of reinforcement: only for stages with rollouts, before and after, shares of a step's time."""

from __future__ import annotations

from nanochat.metrics_rows import EvalRow, RolloutRow
from nanochat.paths import Paths
from nanochat.report.artefacts import StageRows, collect
from nanochat.report.reinforcement import reinforcement_panels, reinforcement_tables
from tests.report.conftest import log_rows, train_row


def rollout_row(step: int) -> RolloutRow:
    seconds = {"rollout_s": 0.3, "gradient_s": 0.5, "optimizer_s": 0.1, "refresh_s": 0.05, "other_s": 0.05}
    shares = dict.fromkeys(("reward", "right", "informative", "cut", "tool_calls", "nats", "clipped"), 0.5)
    return RolloutRow(
        step=step,
        prompts=4,
        samples=16,
        rewards={"answer": 0.5},
        length=9.0,
        logprob_gap=1e-6,
        logprob_gap_max=1e-5,
        kl=None,
        rollout_tok_per_s=1000.0,
        **shares,
        **seconds,
    )


def test_rollouts_are_drawn_and_tabulated(paths: Paths) -> None:
    rows = [
        EvalRow(0, accuracy=0.2, pass_at_1=0.25),
        train_row(1, 1),
        rollout_row(1),
        EvalRow(1, pass_at_1=0.5),
    ]
    log_rows(paths, "rl", "rl", rows)
    [stage] = collect(paths).training()
    assert [panel.title for panel in reinforcement_panels(stage)][:2] == ["right answers", "reward"]
    rates, time = reinforcement_tables(stage)
    assert rates.rows == (("pass@1", "25.0%", "50.0%"),)
    assert rates.columns[1:] == ("step 0", "step 1")
    assert time.rows[:2] == (("rollouts", "0.300 s", "30.0%"), ("gradients", "0.500 s", "50.0%"))


def test_a_stage_without_rollouts_has_none_of_it() -> None:
    stage = StageRows("sft", "sft", ())
    assert reinforcement_panels(stage) == []
    assert list(reinforcement_tables(stage)) == []
