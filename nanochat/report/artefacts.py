"""Reads what the stages left behind: their metrics and the timings of recipes. Runs nothing, changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from nanochat.metrics import read_metrics
from nanochat.paths import Paths

MetricsRow = dict[str, Any]
RECIPE = "recipe"  # the run under which recipes keep their timings
TRAINING = ("pretrain", "sft", "rl")  # stages that train, in their natural order


@dataclass(frozen=True)
class StageRows:
    """What one stage of one run has recorded, a resumed stage's repeated steps already merged."""

    run: str
    stage: str
    rows: tuple[MetricsRow, ...]

    def of(self, kind: str) -> list[MetricsRow]:
        """The rows of a kind, in the order of their steps."""
        return [row for row in self.rows if row["kind"] == kind]

    def last(self, kind: str) -> MetricsRow | None:
        """The newest row of a kind."""
        return next(reversed(self.of(kind)), None)

    def series(self, kind: str, name: str) -> tuple[list[float], list[float]]:
        """Steps and values of one figure, where it is known."""
        known = [(row["step"], row[name]) for row in self.of(kind) if row.get(name) is not None]
        return [step for step, _ in known], [value for _, value in known]


@dataclass(frozen=True)
class Timing:
    """Wall time that a stage took, over all the attempts that its result needed."""

    name: str
    wall_s: float
    attempts: int


@dataclass(frozen=True)
class Findings:
    """Everything that a report is made of."""

    stages: tuple[StageRows, ...]
    timings: tuple[Timing, ...]
    system: MetricsRow  # hardware, software and commit as `report reset` found them; may be empty

    def training(self) -> list[StageRows]:
        """The stages that train, in their natural order."""
        found = [stage for stage in self.stages if stage.stage in TRAINING and stage.of("train")]
        return sorted(found, key=lambda stage: TRAINING.index(stage.stage))

    def every(self, kind: str) -> list[MetricsRow]:
        """All rows of a kind, in the order of the stages."""
        return [row for stage in self.stages for row in stage.of(kind)]

    def newest(self, name: str) -> MetricsRow:
        """The newest table of this name among the configurations that the stages wrote down; empty if none did."""
        return next((row[name] for row in reversed(self.every("config")) if row.get(name)), {})

    def scores(self, *, core: bool = False) -> dict[str, dict[str, MetricsRow]]:
        """For each run, in the order in which they were made, its newest score on every task: of CORE or of chat."""
        scores: dict[str, dict[str, MetricsRow]] = {}
        for stage in self.stages:
            if (stage.stage == "eval-base") != core:
                continue
            for row in sorted(stage.of("tasks"), key=lambda row: row.get("time", 0.0)):
                counts, chances = row.get("counts") or {}, row.get("baselines") or {}
                for task, score in row["scores"].items():
                    fact = {"score": score, "count": counts.get(task), "chance": chances.get(task, 0.0)}
                    scores.setdefault(stage.run, {})[task] = fact
        return scores


def collect(paths: Paths) -> Findings:
    """Read every run below the base directory, leaving out what is older than the last `report reset`."""
    system = read_system(paths)
    since = system.get("time", 0.0)
    runs = {
        path.parent.name: [row for row in read_metrics(path) if row.get("time", since) >= since]
        for path in paths.base.glob("runs/*/metrics.jsonl")
    }
    timings = _recipe_timings(runs.pop(RECIPE, []))
    stages = [
        StageRows(run, stage, tuple(_merged(row for row in rows if row["stage"] == stage)))
        for run, rows in sorted(runs.items(), key=lambda item: _begun(item[1]))
        for stage in dict.fromkeys(row["stage"] for row in rows)
    ]
    return Findings(tuple(stages), tuple(timings or _own_timings(stages)), system)


def read_system(paths: Paths) -> MetricsRow:
    """What `report reset` wrote down; empty when it never ran or its file is damaged."""
    try:
        return json.loads((paths.report / "system.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _begun(rows: list[MetricsRow]) -> float:
    """When a run's first row was written, so that runs come in the order in which they were made."""
    return next((row.get("time", 0.0) for row in rows), 0.0)


def _merged(rows: Iterable[MetricsRow]) -> list[MetricsRow]:
    """The last row for each (kind, step): what a resumed run repeated replaces what came before the break."""
    newest: dict[tuple[Any, ...], MetricsRow] = {}
    for row in rows:
        newest[row["kind"], row.get("step"), row.get("prompt")] = row
    return sorted(newest.values(), key=lambda row: row.get("step") or 0)


def _recipe_timings(rows: list[MetricsRow]) -> list[Timing]:
    """The time of each stage's present result: its last attempt and the unfinished ones that it continues."""
    attempts: dict[str, list[MetricsRow]] = {}
    for row in rows:
        if row["kind"] != "stage":
            continue
        earlier = attempts.setdefault(row["name"], [])
        if earlier and (earlier[-1]["key"] != row["key"] or earlier[-1]["status"] == "done"):
            earlier.clear()
        earlier.append(row)
    return [
        Timing(name, sum(row["wall_s"] for row in own), len(own)) for name, own in attempts.items() if own
    ]


def _own_timings(stages: list[StageRows]) -> list[Timing]:
    """Without a recipe: the time that each stage measured itself; of a resumed one at least that of its steps."""
    ends = [(stage, stage.last("done")) for stage in stages]
    return [
        Timing(f"{stage.stage} ({stage.run})", max(end["wall_s"], end.get("train_s") or 0.0), 1)
        for stage, end in ends
        if end
    ]
