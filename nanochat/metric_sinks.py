"""Services that receive a run's figures beside its metrics file: Weights & Biases, trackio, TensorBoard.

A service that is not installed, does not start or fails later costs one warning; run and metrics file continue.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from nanochat.console import warn

if TYPE_CHECKING:
    from nanochat.flags import Tracker  # tyro takes long to import

PROJECT = "nanochat"
DUMMY = "dummy"  # the run name that stands for no name
_NAME_VARIABLE = "WANDB_RUN"


@dataclass(frozen=True)
class TrackedRun:
    """What a service is told of a run."""

    name: str
    stage: str
    folder: Path
    """Of the metrics file."""
    config: dict[str, Any]


class Sink(Protocol):
    """A started service."""

    id: str
    """What the service calls the run; a resumed run passes it again."""

    def log(self, step: int | None, figures: Mapping[str, float]) -> None:
        """Send the figures of one row."""

    def close(self) -> None:
        """Send what is left."""


class _Wandb:
    def __init__(self, run: TrackedRun, earlier: str | None):
        import wandb

        self._run = wandb.init(project=PROJECT, name=run.name, config=run.config, id=earlier, resume="allow")
        self._run.define_metric("*", step_metric="step")
        self.id = self._run.id

    def log(self, step: int | None, figures: Mapping[str, float]) -> None:
        self._run.log({**figures} if step is None else {"step": step, **figures})

    def close(self) -> None:
        self._run.finish()


class _Trackio:
    def __init__(self, run: TrackedRun, earlier: str | None):
        import trackio

        self._service = trackio
        # It resumes by name, so that stages which share a metrics file need different ones.
        self.id = earlier or f"{run.name}-{run.stage}"
        resume = "allow" if earlier else "never"
        trackio.init(project=PROJECT, name=self.id, config=run.config, resume=resume)

    def log(self, step: int | None, figures: Mapping[str, float]) -> None:
        self._service.log(dict(figures), step=step)

    def close(self) -> None:
        self._service.finish()


class _TensorBoard:
    def __init__(self, run: TrackedRun, earlier: str | None):
        from torch.utils.tensorboard import SummaryWriter

        self.id = f"tensorboard/{run.stage}"
        self._open = lambda step: SummaryWriter(str(run.folder / self.id), purge_step=step)
        self._writer: Any = None
        self._resumed = earlier is not None
        self._step = 0

    def log(self, step: int | None, figures: Mapping[str, float]) -> None:
        self._step = self._step if step is None else step
        if self._writer is None:  # hide the steps that are repeated, of another run all
            self._writer = self._open(self._step if self._resumed else 0)
        for name, value in figures.items():
            self._writer.add_scalar(name, value, self._step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


SINKS: Mapping[Tracker, Callable[[TrackedRun, str | None], Sink]] = {
    "wandb": _Wandb,
    "trackio": _Trackio,
    "tensorboard": _TensorBoard,
}


def chosen(track: Sequence[Tracker], name: str | None, tag: str) -> tuple[str, tuple[Tracker, ...]]:
    """(the run's name, its services), from `--track`, `--run` and WANDB_RUN.

    A name alone asks for Weights & Biases; services without a name call the run by its tag.
    """
    name = name or os.environ.get(_NAME_VARIABLE) or DUMMY
    named = name != DUMMY
    return name if named else tag, tuple(dict.fromkeys(track)) or (("wandb",) if named else ())


class Sinks:
    """The services of a run that work."""

    def __init__(self) -> None:
        self._started: dict[Tracker, Sink] = {}

    def start(self, tracker: Tracker, run: TrackedRun, earlier: str | None) -> str | None:
        """Start a service, continuing its run `earlier`; returns its id of the run, None if it does not start."""
        with _guarded(tracker, "did not start"):
            sink = SINKS[tracker](run, earlier)
            self._started[tracker] = sink
            return sink.id
        return None

    def log(self, step: int | None, figures: Mapping[str, float]) -> None:
        """Send the figures of one row to every service, for the last time to one that fails."""
        working: dict[Tracker, Sink] = {}
        for tracker, sink in self._started.items():
            with _guarded(tracker, "stopped"):
                sink.log(step, figures)
                working[tracker] = sink
        self._started = working

    def close(self) -> None:
        """Finish the run at every service."""
        for tracker, sink in self._started.items():
            with _guarded(tracker, "did not finish"):
                sink.close()
        self._started = {}


@contextmanager
def _guarded(tracker: Tracker, trouble: str) -> Iterator[None]:
    """A service may fail, and may not print on stdout, which is for results."""
    try:
        with redirect_stdout(sys.stderr):
            yield
    except ImportError as error:
        warn(
            f"{tracker} cannot be imported, the run continues without it ({error}): "
            f"run `uv pip install -e '.[{tracker}]'` in the clone"
        )
    except Exception as error:
        warn(f"{tracker} {trouble}, the run continues without it: {error}")
