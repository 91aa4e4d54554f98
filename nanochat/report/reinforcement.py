"""What the report shows of reinforcement, besides what every training stage has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from statistics import fmean

from nanochat.metrics_rows import EvalRow, RolloutRow
from nanochat.report.artefacts import StageRows
from nanochat.report.blocks import Table
from nanochat.report.curves import curve
from nanochat.report.figures import Panel

_RATES: Mapping[str, Callable[[EvalRow], float | None]] = {
    "greedy": lambda row: row.accuracy,
    "pass@1": lambda row: row.pass_at_1,
    "pass@2": lambda row: row.pass_at_2,
    "pass@4": lambda row: row.pass_at_4,
    "pass@8": lambda row: row.pass_at_8,
    "pass@16": lambda row: row.pass_at_16,
}
_SECONDS: Mapping[str, Callable[[RolloutRow], float]] = {
    "rollouts": lambda row: row.rollout_s,
    "gradients": lambda row: row.gradient_s,
    "optimizer": lambda row: row.optimizer_s,
    "weights to the engine": lambda row: row.refresh_s,
    "other": lambda row: row.other_s,
}


def reinforcement_panels(stage: StageRows) -> list[Panel]:
    """Right answers, rewards, and what goes wrong first; empty for a stage without rollouts."""
    if stage.last(RolloutRow) is None:
        return []
    held_out = [c for name, rate in _RATES.items() for c in curve(stage, EvalRow, f"held out, {name}", rate)]
    return [
        Panel(
            "right answers",
            (*curve(stage, RolloutRow, "training", lambda row: row.right, smooth=True), *held_out),
            from_zero=True,
        ),
        Panel("reward", curve(stage, RolloutRow, "reward", lambda row: row.reward, smooth=True)),
        Panel(
            "engine and trainer differ by (nats)",
            (
                *curve(stage, RolloutRow, "mean", lambda row: row.logprob_gap),
                *curve(stage, RolloutRow, "most", lambda row: row.logprob_gap_max),
            ),
            from_zero=True,
        ),
        Panel(
            "nats per sampled token",
            (
                *curve(stage, RolloutRow, "of the policy", lambda row: row.nats, smooth=True),
                *curve(stage, RolloutRow, "from the reference", lambda row: row.kl, smooth=True),
            ),
            from_zero=True,
        ),
    ]


def reinforcement_tables(stage: StageRows) -> Iterable[Table]:
    """Held-out answers before and after, and where the time of a step went."""
    evaluations, steps = stage.of(EvalRow), stage.of(RolloutRow)
    if not steps:
        return
    if evaluations:
        first, last = evaluations[0], evaluations[-1]
        rows = [
            (name, f"{before:.1%}", f"{after:.1%}")
            for name, rate in _RATES.items()
            if (before := rate(first)) is not None and (after := rate(last)) is not None
        ]
        columns = ("held-out items", f"step {first.step:,}", f"step {last.step:,}")
        yield Table(columns, tuple(rows), "Right answers: greedy, and one or more of k samples")
    spent = {name: fmean(seconds(row) for row in steps) for name, seconds in _SECONDS.items()}
    total = sum(spent.values()) or 1.0
    shown = tuple((name, f"{value:.3f} s", f"{value / total:.1%}") for name, value in spent.items())
    rate = fmean(row.rollout_tok_per_s for row in steps)
    yield Table(
        ("a step", "time", "share"), shown, f"Where the time went; {rate:,.0f} tokens sampled a second"
    )
