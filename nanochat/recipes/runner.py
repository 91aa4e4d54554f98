"""Runs a recipe's stages as subprocesses: skips finished ones, times the others, forwards signals."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from nanochat.atomic import file_lock
from nanochat.console import duration, say
from nanochat.metric_sinks import DUMMY
from nanochat.metrics import Metrics, open_metrics
from nanochat.metrics_rows import StageRow
from nanochat.paths import Paths
from nanochat.recipes.recipe import Stage, dependents, stage_keys
from nanochat.recipes.record import Record
from nanochat.report.archive import move_to_archive
from nanochat.sandbox.linux import die_with_parent
from nanochat.signals import handle_signals

# A lost terminal is forwarded to the stages as SIGTERM, on which they save.
PASSED_ON = {
    signal.SIGINT: signal.SIGINT,
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGHUP: signal.SIGTERM,
}
STDERR = 2


@dataclass(frozen=True)
class StageResult:
    """How a stage ended (`skipped`, `done`, `interrupted` or `failed`), and its seconds in this call."""

    name: str
    status: str
    wall_s: float
    exit_status: int = 0


@dataclass
class _Running:
    stage: Stage
    process: subprocess.Popen[bytes]
    began: float
    log: IO[bytes] | None


def _end_with_us() -> None:
    """In a stage's process: should the recipe be killed, the stage is asked to save and exit. (Linux only.)"""
    if sys.platform == "linux":
        die_with_parent(signal.SIGTERM)


class Runner:
    """One pass over a recipe's stages, with their record and logs in `home`."""

    def __init__(self, stages: Sequence[Stage], paths: Paths, home: Path, *, processes: int = 1):
        self._stages = tuple(stages)
        self._paths = paths
        self._home = home
        self._processes = processes
        self._keys = stage_keys(stages)
        self._running: list[_Running] = []
        self._results: dict[str, StageResult] = {}
        self._signal: signal.Signals | None = None

    def run(self) -> list[StageResult]:
        """Run every unfinished stage, in order; stop at the first failure or at a signal.

        Only one recipe runs in a base directory at a time; a second one waits. Raises ValueError, before any stage
        runs, if a training run under one of the recipe's names was not made by it.
        """
        lock = file_lock(
            self._paths.metrics("recipe").with_name("lock"),
            message="another recipe is running in this base directory: waiting for it",
        )
        with lock, self._signals(), self._no_orphans(), ExitStack() as stack:
            record = self._record()
            if (conflict := self.conflict()) is not None:
                raise ValueError(conflict)
            if (older := self._paths.metrics("recipe").with_name("record.json")).exists():
                say(f"ignoring {older}: recipes now keep one record for each name")
            metrics = stack.enter_context(self._metrics())
            for stage in self._stages:
                self._settle(stage.needs, record, metrics)
                if self._stopped():
                    break
                if self._up_to_date(stage, record):
                    self._results[stage.name] = StageResult(stage.name, "skipped", 0.0)
                    continue
                self._start(stage, record)
                if not stage.background:
                    self._settle([stage.name], record, metrics)
            self._stop_background()
            self._settle([running.stage.name for running in self._running], record, metrics)
        return [self._results[stage.name] for stage in self._stages if stage.name in self._results]

    def up_to_date(self) -> dict[str, bool]:
        """Which stages `run` would skip."""
        record = self._record()
        fresh: dict[str, bool] = {}
        for stage in self._stages:
            fresh[stage.name] = self._up_to_date(stage, record) and all(fresh[name] for name in stage.needs)
        return fresh

    def conflict(self) -> str | None:
        """Why `run` would refuse: an existing training run under one of the names that this recipe did not make."""
        record = self._record()
        for stage in self._stages:
            if stage.run is None or record.knows(stage.name):
                continue
            there = [str(folder) for folder in self._folders(stage.run).values() if folder.exists()]
            if there:
                return (
                    f"the run {stage.run} exists and was not made by this recipe: choose another name with "
                    f"--model-tag NAME, or move it away ({' and '.join(there)})"
                )
        return None

    def _record(self) -> Record:
        return Record(self._home / "record.json")

    def _up_to_date(self, stage: Stage, record: Record) -> bool:
        return record.state(stage.name, self._keys[stage.name]) == "done" and stage.complete(self._paths)

    def _folders(self, run: str) -> dict[str, Path]:
        return {"checkpoints": self._paths.checkpoints(run), "runs": self._paths.metrics(run).parent}

    def _start(self, stage: Stage, record: Record) -> None:
        key = self._keys[stage.name]
        if stage.run is not None and record.state(stage.name, key) in (None, "outdated"):
            archived = move_to_archive(self._paths, stage.run, self._folders(stage.run))
            if archived is not None:
                say(f"the earlier run {stage.run} was made with other settings: moved to {archived}")
        record.outdate(dependents(self._stages, stage.name))
        record.set(stage.name, key, "started")
        number = 1 + [other.name for other in self._stages].index(stage.name)
        say(f"[{number}/{len(self._stages)}] {stage.name}: {stage.command}")
        log = None
        if stage.background:
            path = self._home / f"{stage.name}.log"
            say(f"{stage.name} continues in the background, its output in {path}")
            log = open(path, "wb")  # noqa: SIM115 - closed when the stage is reaped
        process = subprocess.Popen(
            self._command(stage),
            stdin=subprocess.DEVNULL,
            stdout=log or STDERR,  # stdout is for the recipe's own result
            stderr=log,
            process_group=0,  # so that a Ctrl-C reaches the stage only once, forwarded by us
            preexec_fn=_end_with_us,
        )
        self._running.append(_Running(stage, process, time.monotonic(), log))
        if self._signal is not None:  # it arrived while the process was being started
            self._send(self._running[-1], PASSED_ON[self._signal])

    def _send(self, running: _Running, number: signal.Signals) -> None:
        """Signal a stage; under torchrun its workers, which save and exit, whereupon torchrun exits."""
        import psutil

        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(running.process.pid)
            workers = process.children() if self._through_torchrun(running.stage) else []
            for target in workers or [process]:
                target.send_signal(number)

    def _through_torchrun(self, stage: Stage) -> bool:
        return stage.distributed and self._processes > 1

    def _command(self, stage: Stage) -> list[str]:
        launcher = [sys.executable]
        if self._through_torchrun(stage):
            launcher += ["-m", "torch.distributed.run", "--standalone"]
            launcher += [f"--nproc_per_node={self._processes}"]
        return [*launcher, "-m", stage.module, *stage.argv]

    def _settle(self, names: Sequence[str], record: Record, metrics: Metrics) -> None:
        """Wait for the running ones of the named stages, and record how they ended."""
        for running in [running for running in self._running if running.stage.name in names]:
            stage, code = running.stage, running.process.wait()
            self._running.remove(running)
            if running.log is not None:
                running.log.close()
            result = StageResult(stage.name, *self._verdict(running, code))
            self._results[stage.name] = result
            if result.status == "done":
                record.set(stage.name, self._keys[stage.name], "done")
            key = self._keys[stage.name]
            metrics.log(StageRow(stage.name, key, stage.argv, result.status, result.wall_s))
            say(f"{stage.name}: {result.status} after {duration(result.wall_s)}")

    def _verdict(self, running: _Running, code: int) -> tuple[str, float, int]:
        wall_s = time.monotonic() - running.began
        torchrun = self._through_torchrun(running.stage)
        if self._signal is not None and code in _stopped_by(PASSED_ON[self._signal], torchrun=torchrun):
            complete = code == 0 and running.stage.complete(self._paths)
            return ("done" if complete else "interrupted"), wall_s, 0
        if code != 0:
            return "failed", wall_s, code if code > 0 else 128 - code
        if not running.stage.complete(self._paths):
            say(f"{running.stage.name} exited with status 0, but its results are missing")
            return "failed", wall_s, 1
        return "done", wall_s, 0

    def _stopped(self) -> bool:
        failed = any(result.status in ("failed", "interrupted") for result in self._results.values())
        return failed or self._signal is not None

    def _stop_background(self) -> None:
        """Stop background stages after a failure; a signal has already reached every stage."""
        if self._stopped() and self._signal is None:
            self._signal = signal.SIGTERM
            for running in self._running:
                running.process.terminate()

    @contextmanager
    def _no_orphans(self) -> Iterator[None]:
        try:
            yield
        finally:  # some are still running only after an error in this process, such as a full disk
            for running in self._running:
                running.process.terminate()
                running.process.wait()

    def _metrics(self) -> Metrics:
        path = self._paths.metrics("recipe")
        return open_metrics(path, "recipe", wandb_run=DUMMY, config=None, enabled=True, resume=True)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def pass_on(number: int, _frame: object) -> None:
            self._signal = signal.Signals(number)
            for running in self._running:
                self._send(running, PASSED_ON[self._signal])

        with handle_signals(pass_on, *PASSED_ON):
            yield


def _stopped_by(number: signal.Signals, *, torchrun: bool) -> tuple[int, ...]:
    """Exit statuses of a process stopped by a signal: it saved and exited, was killed, or reported the signal.

    torchrun exits with 1, whatever its workers exited with.
    """
    return 0, -number, 128 + number, *((1,) if torchrun else ())
