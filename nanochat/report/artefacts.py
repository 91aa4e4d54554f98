"""Reads the stages' metrics and the recipes' timings. Runs nothing, changes nothing.

Malformed data is left out and named in `Findings.left_out`; the rest is typed and within bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from nanochat.config import from_json
from nanochat.hardware import Hardware
from nanochat.metrics import LoggedRow, parse_figures, scan_metrics
from nanochat.metrics_rows import (
    ConfigRow,
    DoneRow,
    Row,
    StageRow,
    StepRow,
    TasksRow,
    TrainRow,
)
from nanochat.paths import Paths

R = TypeVar("R", bound=Row)
S = TypeVar("S", bound=StepRow)
T = TypeVar("T")

TRAINING = ("pretrain", "sft", "rl", "dpo")  # stages that train, in pipeline order
CORE_STAGE = "eval-base"  # its tasks are those of CORE


@dataclass(frozen=True)
class System:
    """The time and the machine, as recorded by `report reset`."""

    time: float
    hardware: Hardware | None = None
    software: dict[str, str | None] | None = None


@dataclass(frozen=True)
class ModelShape:
    """The model sizes that the report shows."""

    n_layer: int
    n_embd: int
    n_head: int
    head_dim: int
    max_seq_len: int
    vocab_size: int


@dataclass(frozen=True)
class PlannedModel:
    """The model's sizes and number of parameters by group, from the plans."""

    model: ModelShape | None = None
    parameters: dict[str, int] | None = None


@dataclass(frozen=True)
class TaskScore:
    """The accuracy, that of guessing, the number of items and the 95 % interval (None if unknown)."""

    score: float
    chance: float
    count: int | None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class StageRows:
    """The rows of one stage of one run, with the repeated steps of a resumed stage merged."""

    run: str
    stage: str
    logged: tuple[LoggedRow, ...]

    def of(self, kind: type[R]) -> list[R]:
        """The rows of a kind, in the order of their steps."""
        return [entry.row for entry in self.logged if isinstance(entry.row, kind)]

    def last(self, kind: type[R]) -> R | None:
        """The newest row of a kind."""
        return next(reversed(self.of(kind)), None)

    def series(self, kind: type[S], figure: Callable[[S], float | None]) -> tuple[list[int], list[float]]:
        """Steps and values of one figure, where known."""
        known = [(row.step, value) for row in self.of(kind) if (value := figure(row)) is not None]
        return [step for step, _ in known], [value for _, value in known]


@dataclass(frozen=True)
class Timing:
    """Wall time of a stage, over all attempts that contributed to its result."""

    name: str
    wall_s: float
    attempts: int


@dataclass(frozen=True)
class Findings:
    """All data of a report."""

    stages: tuple[StageRows, ...]
    timings: tuple[Timing, ...]
    system: System | None
    planned: PlannedModel
    left_out: tuple[str, ...]
    """Where and why data was malformed."""

    def training(self) -> list[StageRows]:
        """The stages that train, in pipeline order."""
        found = [stage for stage in self.stages if stage.stage in TRAINING and stage.of(TrainRow)]
        return sorted(found, key=lambda stage: TRAINING.index(stage.stage))

    def every(self, kind: type[R]) -> list[R]:
        """All rows of a kind, in the order of the stages."""
        return [row for stage in self.stages for row in stage.of(kind)]

    def newest(self, fact: Callable[[ConfigRow], T | None]) -> T | None:
        """The newest value of a fact that stages record when they start."""
        known = (fact(row) for row in reversed(self.every(ConfigRow)))
        return next((value for value in known if value), None)

    def latest(self, kind: type[R], figure: Callable[[R], float | None]) -> R | None:
        """The row of a kind that was written last, of those in which the figure is known."""
        logged = [entry for stage in self.stages for entry in stage.logged if isinstance(entry.row, kind)]
        known = [entry for entry in logged if figure(entry.row) is not None]  # type: ignore[arg-type]
        return max(known, key=lambda entry: entry.time).row if known else None  # type: ignore[return-value]

    def scores(self, *, core: bool = False) -> dict[str, dict[str, TaskScore]]:
        """Each run's newest score on every task of CORE, or of chat; runs in the order of their creation."""
        scores: dict[str, dict[str, TaskScore]] = {}
        for stage in self.stages:
            if (stage.stage == CORE_STAGE) != core:
                continue
            for entry in sorted(stage.logged, key=lambda entry: entry.time):
                if isinstance(entry.row, TasksRow):
                    scores.setdefault(stage.run, {}).update(_task_scores(entry.row))
        return scores


def collect(paths: Paths) -> Findings:
    """Read every run below the base directory, without rows older than the last `report reset`."""
    left_out: list[str] = []
    system = _system(paths, left_out)
    since = system.time if system else float("-inf")
    files = [
        (run, [entry for entry in _logged(run, path, left_out) if entry.time >= since])
        for run, path in sorted((_printable(path.parent.name), path) for path in _metrics_files(paths))
    ]
    recipes = [entry for _, rows in files for entry in rows if isinstance(entry.row, StageRow)]
    stages = [
        StageRows(run, stage, tuple(_merged(entry for entry in rows if entry.stage == stage)))
        for run, rows in sorted(files, key=lambda file: _begun(file[1]))
        for stage in dict.fromkeys(entry.stage for entry in rows if not isinstance(entry.row, StageRow))
    ]
    timings = [*_recipe_timings(recipes), *_own_timings(stages, recipes)]
    return Findings(tuple(stages), tuple(timings), system, _planned(stages, left_out), tuple(left_out))


def read_system(paths: Paths) -> System | None:
    """The record of `report reset`; None if it never ran. Raises ValueError or OSError for a damaged file."""
    path = paths.report / "system.json"
    if not path.exists():
        return None
    return from_json(System, parse_figures(path.read_bytes()), ignore_unknown=True)


def _system(paths: Paths, left_out: list[str]) -> System | None:
    try:
        return read_system(paths)
    except (OSError, ValueError) as error:
        left_out.append(f"report/system.json ({_reason(error)})")
        return None


def _metrics_files(paths: Paths) -> Iterable[Path]:
    return paths.base.glob("runs/*/metrics.jsonl")


def _logged(run: str, path: Path, left_out: list[str]) -> list[LoggedRow]:
    try:
        rows, faults = scan_metrics(path)
    except OSError as error:
        left_out.append(f"runs/{run}/metrics.jsonl ({_reason(error)})")
        return []
    if faults is not None:
        left_out.append(f"runs/{run}/metrics.jsonl {faults}")
    return rows


def _reason(error: Exception) -> str:
    """The error's text, without the local path that an OSError names."""
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _printable(name: str) -> str:
    """A folder's name as printable text, whatever its bytes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _planned(stages: Sequence[StageRows], left_out: list[str]) -> PlannedModel:
    """The model according to the plans; the newest wins."""
    plans = [row.plan for stage in stages for row in stage.of(ConfigRow) if row.plan]
    said = {name: value for plan in plans for name, value in plan.items()}
    try:
        return from_json(PlannedModel, said, ignore_unknown=True)
    except ValueError as error:
        left_out.append(f"the model in the plan ({error})")
        return PlannedModel()


def _task_scores(row: TasksRow) -> dict[str, TaskScore]:
    return {
        task: TaskScore(score, row.baselines.get(task, 0.0), row.counts.get(task), row.intervals.get(task))
        for task, score in row.scores.items()
    }


def _begun(rows: Sequence[LoggedRow]) -> float:
    """When a run's first row was written, to sort runs by creation."""
    return rows[0].time if rows else 0.0


def _merged(rows: Iterable[LoggedRow]) -> list[LoggedRow]:
    """The last row of each kind and place, so that steps repeated by a resumed run replace the earlier ones."""
    newest = {(entry.row.kind, entry.row.place()): entry for entry in rows}
    return sorted(newest.values(), key=lambda entry: entry.row.step if isinstance(entry.row, StepRow) else 0)


def _recipe_timings(recipes: Iterable[LoggedRow]) -> list[Timing]:
    """The time spent on each stage's current result: its last attempt and the unfinished ones that it resumed."""
    attempts: dict[str, list[StageRow]] = {}
    for row in (entry.row for entry in recipes):
        assert isinstance(row, StageRow)
        earlier = attempts.setdefault(row.name, [])
        if earlier and (earlier[-1].key != row.key or earlier[-1].status == "done"):
            earlier.clear()
        earlier.append(row)
    return [Timing(name, sum(row.wall_s for row in own), len(own)) for name, own in attempts.items()]


def _own_timings(stages: Sequence[StageRows], recipes: Sequence[LoggedRow]) -> list[Timing]:
    """Of stages that ended while no stage of a recipe ran: what each measured itself, for a resumed one at least the
    time of its steps."""
    spans = [
        (entry.time - entry.row.wall_s, entry.time) for entry in recipes if isinstance(entry.row, StageRow)
    ]
    timings = []
    for stage in stages:
        ends = [(entry.time, entry.row) for entry in stage.logged if isinstance(entry.row, DoneRow)]
        for time, end in ends[-1:]:
            if not any(begun <= time <= ended for begun, ended in spans):
                seconds = max(end.wall_s, end.train_s or 0.0)
                timings.append(Timing(f"{stage.stage} ({stage.run})", seconds, 1))
    return timings
