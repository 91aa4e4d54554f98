"""The metrics file: every figure of every stage, one row per line; services may receive them too."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from nanochat.atomic import write_fault
from nanochat.config import finite, from_json, json_line, parse_json, to_json
from nanochat.console import warn
from nanochat.errors import EnvironmentFault
from nanochat.metric_sinks import Sinks, TrackedRun, chosen
from nanochat.metrics_rows import FORMER_KINDS, KINDS, RENAMED, ConfigRow, Row, TrackedRow

if TYPE_CHECKING:
    from nanochat.flags import Tracker  # tyro takes long to import

R = TypeVar("R", bound=Row)

# No figure of ours is larger: counts are 64-bit integers, losses and norms come from float32.
_LARGEST_COUNT = 2**63 - 1
_LARGEST_FIGURE = 3.5e38
_SHOWN = 40  # characters of an unknown kind


@dataclass(frozen=True)
class LoggedRow:
    """A row of a metrics file with the stage that wrote it and the time (seconds since 1970)."""

    stage: str
    time: float
    row: Row

    def to_json(self) -> dict[str, Any]:
        """One flat table: kind, stage, time, then the row's own fields."""
        return {"kind": self.row.kind, "stage": self.stage, "time": self.time, **to_json(self.row)}


class Metrics:
    """An open metrics file. `log` on a disabled one does nothing."""

    def __init__(self, stage: str, file: BinaryIO | None):
        self.stage = stage
        self._file = file
        self._sinks = Sinks()

    def log(self, row: Row) -> None:
        """Append one row. A number that is not finite becomes null."""
        if self._file is None:
            return
        logged = LoggedRow(self.stage, time.time(), row).to_json()
        # One write per row: if the process is killed, at most the last line is torn.
        line = json_line(logged).encode("utf-8") + b"\n"
        try:
            if self._file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise write_fault(Path(self._file.name), error) from error
        step, figures = _figures(row)
        if figures and not isinstance(row, ConfigRow):  # services receive the config when they start
            self._sinks.log(step, figures)

    def track(self, tracker: Tracker, run: TrackedRun, earlier: str | None) -> None:
        """Send every later row to a service too; the file remembers what it calls the run."""
        name = self._sinks.start(tracker, run, earlier)
        if name is not None:
            self.log(TrackedRow(name, tracker))

    def close(self) -> None:
        """Close the file and finish the run at the services."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._sinks.close()

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_metrics(
    path: Path,
    stage: str,
    *,
    wandb_run: str | None,
    config: ConfigRow | None,
    enabled: bool,
    resume: bool,
    track: Sequence[Tracker] = (),
) -> Metrics:
    """Open `path` for the rows of `stage`.

    `resume` appends (also for a stage that adds to another stage's file); otherwise an earlier run's file is
    renamed to `metrics.1.jsonl`, `metrics.2.jsonl` … If `wandb_run` is None, the variable WANDB_RUN is used; `track`
    are the services beside the file. `config` is the stage's first row, and the services get its flags. `enabled` is
    false on every process but the first.
    """
    if not enabled:
        return Metrics(stage, file=None)
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not resume:
            set_aside(path)
        torn = _torn(path)
        file = open(path, "ab", buffering=0)  # noqa: SIM115 - closed by Metrics.close
        if torn:
            file.write(b"\n")
    except OSError as error:
        raise write_fault(path, error) from error
    metrics = Metrics(stage, file)
    name, trackers = chosen(track, wandb_run, tag=path.parent.name)
    known = {row.tracker: row.id for row in rows_of(path, TrackedRow, stage)} if trackers else {}
    for tracker in trackers:
        run = TrackedRun(name, stage, path.parent, config.config if config else {})
        metrics.track(tracker, run, known.get(tracker))
    if config:
        metrics.log(config)
    return metrics


@dataclass(frozen=True)
class CommonFields:
    """The fields that a row of any kind has."""

    kind: str
    stage: str
    time: float


def parse_row(line: bytes) -> LoggedRow:
    """One line of a metrics file. Unknown fields are ignored.

    Raises ValueError for malformed JSON, an unknown kind, a missing or ill-typed field, or an impossibly large
    number.
    """
    data = parse_figures(line)
    common = from_json(CommonFields, data, ignore_unknown=True)
    kind = FORMER_KINDS.get(common.kind, common.kind)
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind[:_SHOWN]!r}")
    row = from_json(KINDS[kind], _renamed(kind, data), ignore_unknown=True)
    return LoggedRow(common.stage, common.time, row)


def parse_figures(text: str | bytes) -> Any:
    """Parse JSON into displayable values: a number that is not finite becomes None.

    Raises ValueError for malformed JSON, an impossibly large number, and text with a lone surrogate.
    """
    data = finite(parse_json(text))
    _check_values(data)
    return data


def _check_values(value: Any) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _check_values(key)
            _check_values(item)
    elif isinstance(value, list):
        for item in value:
            _check_values(item)
    elif isinstance(value, str):
        value.encode()  # a lone surrogate raises UnicodeEncodeError, a ValueError
    elif isinstance(value, int) and abs(value) > _LARGEST_COUNT:
        raise ValueError("a whole number of more than 64 bits")
    elif isinstance(value, float) and abs(value) > _LARGEST_FIGURE:
        raise ValueError(f"{value:g} is larger than any float32")


def _renamed(kind: str, data: dict[str, Any]) -> dict[str, Any]:
    """`data` with old field names replaced by current ones."""
    for of_kind, path, then, now in RENAMED:
        if of_kind == kind:
            data = _rename(data, path, then, now)
    return data


def _rename(table: Any, path: tuple[str, ...], then: str, now: str) -> Any:
    if not isinstance(table, dict):
        return table
    if path:
        head, *rest = path
        return {**table, head: _rename(table[head], tuple(rest), then, now)} if head in table else table
    return {now if name == then and now not in table else name: value for name, value in table.items()}


@dataclass(frozen=True)
class LeftOut:
    """Invalid lines of a metrics file: their count, the first one's number, and what is wrong with it."""

    count: int
    line: int
    reason: str

    def __str__(self) -> str:
        where = (
            f"line {self.line}" if self.count == 1 else f"{self.count} lines, the first is line {self.line}"
        )
        return f"{where} ({self.reason})"


def scan_metrics(path: Path) -> tuple[list[LoggedRow], LeftOut | None]:
    """The rows of a metrics file in order, and the invalid lines left out. A missing file has no rows.

    Raises OSError if the file cannot be read.
    """
    rows: list[LoggedRow] = []
    faults: list[tuple[int, str]] = []
    lines = path.read_bytes().splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(parse_row(line))
        except ValueError as error:
            faults.append((number, str(error)))
    return rows, LeftOut(len(faults), *faults[0]) if faults else None


def read_metrics(path: Path) -> list[LoggedRow]:
    """The rows of a metrics file in order; warns of lines left out.

    Raises EnvironmentFault if the file cannot be read.
    """
    try:
        rows, left_out = scan_metrics(path)
    except OSError as error:
        raise EnvironmentFault(f"cannot read {path}: {error.strerror}") from error
    if left_out is not None:
        warn(f"{path}: left out {left_out}")
    return rows


def rows_of(path: Path, kind: type[R], stage: str | None = None) -> list[R]:
    """The rows of one kind in a metrics file, from one stage or all."""
    logged = (entry for entry in read_metrics(path) if stage is None or entry.stage == stage)
    return [entry.row for entry in logged if isinstance(entry.row, kind)]


def _torn(path: Path) -> bool:
    """Whether the last line is incomplete, so that the next row must start a new one."""
    if not path.exists() or path.stat().st_size == 0:
        return False
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def set_aside(path: Path) -> None:
    """Rename a file to `name.1.suffix`, or the next free number, so that a new one can begin."""
    if path.exists():
        number = 1
        while (older := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
            number += 1
        path.rename(older)


def _figures(row: Row) -> tuple[int | None, dict[str, float]]:
    """(step, the other finite numbers of a row under `kind/name`); one level of tables is flattened."""
    fields = finite(to_json(row))
    step = fields.pop("step", None)
    flat: dict[str, float] = {}
    for name, value in fields.items():
        items = value.items() if isinstance(value, dict) else [(None, value)]
        for key, item in items:
            if isinstance(item, Real):
                flat[f"{row.kind}/{name}" + (f"/{key}" if key else "")] = float(item)
    return step, flat
