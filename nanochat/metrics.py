"""Every figure of every stage, one JSON object a line; to Weights & Biases as well, when asked."""

from __future__ import annotations

import json
import os
import time
from numbers import Real
from pathlib import Path
from typing import Any, BinaryIO

from nanochat.atomic import write_fault
from nanochat.config import json_line
from nanochat.console import warn

WANDB_PROJECT = "nanochat"
NO_WANDB = "dummy"  # the run name that means: no Weights & Biases


class Metrics:
    """An open metrics file. `log` on a disabled one does nothing."""

    def __init__(self, stage: str, file: BinaryIO | None):
        self.stage = stage
        self._file = file
        self._wandb: Any = None

    def log(self, kind: str, **values: Any) -> None:
        """Append one row. Dataclasses, paths and numpy scalars are taken; NaN and infinity become null."""
        if self._file is None:
            return
        row = {"kind": kind, "stage": self.stage, "time": time.time(), **values}
        # One write per row: whatever kills the process, at most the last line is torn.
        self._file.write(json_line(row).encode("utf-8") + b"\n")
        if self._wandb is not None and (numbers := _numbers(kind, values)):
            self._wandb.log(numbers)

    def start_wandb(self, run: str, config: dict[str, Any], run_id: str | None) -> None:
        """Send every later row to Weights & Biases too; where that fails, warn once and go on."""
        try:
            import wandb

            self._wandb = wandb.init(
                project=WANDB_PROJECT, name=run, config=config, id=run_id, resume="allow"
            )
            self._wandb.define_metric("*", step_metric="step")
        except ImportError:
            warn("wandb is not installed, metrics go to the local file only (pip install wandb)")
        except Exception as error:  # whatever ails a remote service, it must not end a training run
            self._wandb = None
            warn(f"wandb did not start, metrics go to the local file only: {error}")
        else:
            self.log("wandb", id=self._wandb.id)

    def close(self) -> None:
        """Close the file and finish the remote run."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._wandb is not None:
            self._wandb.finish()
            self._wandb = None

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_metrics(
    path: Path, stage: str, *, wandb_run: str | None, config: dict[str, Any], enabled: bool, resume: bool
) -> Metrics:
    """Open `path` for the rows of `stage`.

    `resume` appends (also for a stage that adds to another one's file); without it a file from an earlier run
    is set aside as `metrics.1.jsonl`, `metrics.2.jsonl` … `wandb_run` None means the variable WANDB_RUN.
    `enabled` is false on every process but the first.
    """
    if not enabled:
        return Metrics(stage, file=None)
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not resume:
            _set_aside(path)
        torn = _torn(path)
        file = open(path, "ab", buffering=0)  # noqa: SIM115 - closed by Metrics.close
        if torn:
            file.write(b"\n")
    except OSError as error:
        raise write_fault(path, error) from error
    metrics = Metrics(stage, file)
    run = wandb_run or os.environ.get("WANDB_RUN") or NO_WANDB
    if run != NO_WANDB:
        earlier = [row["id"] for row in read_metrics(path) if (row["kind"], row["stage"]) == ("wandb", stage)]
        metrics.start_wandb(run, config, run_id=earlier[-1] if earlier else None)
    return metrics


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file in order; lines torn by a crash are left out, a missing file has none."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rows.append(row)
    return rows


def _torn(path: Path) -> bool:
    """Whether the last line was cut short, so that the next row must start a new one."""
    if not path.exists() or path.stat().st_size == 0:
        return False
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _set_aside(path: Path) -> None:
    if path.exists():
        number = 1
        while (older := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
            number += 1
        path.rename(older)


def _numbers(kind: str, values: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a row under `kind/name`; one level of tables is flattened."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        items = value.items() if isinstance(value, dict) else [(None, value)]
        for key, item in items:
            if isinstance(item, Real):
                flat["step" if name == "step" else f"{kind}/{name}" + (f"/{key}" if key else "")] = item
    return flat
