"""Runs a recipe's stages as processes of their own: skips what is done, times the rest, passes signals on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO

from nanochat.atomic import file_lock
from nanochat.console import duration, say
from nanochat.metrics import Metrics, open_metrics
from nanochat.metrics_rows import StageRow
from nanochat.paths import Paths
from nanochat.recipes.recipe import DONE, STARTED, Record, Stage, dependents, stage_keys
from nanochat.report.archive import set_aside

# A lost terminal reaches the stages as SIGTERM, which they know to save upon.
PASSED_ON = {
    signal.SIGINT: signal.SIGINT,
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGHUP: signal.SIGTERM,
}
STDERR = 2


@dataclass(frozen=True)
class StageResult:
    """How a stage went: `skipped`, `done`, `interrupted` or `failed`, and the seconds this call took for it."""

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


class Runner:
    """One pass over a recipe's stages."""

    def __init__(self, stages: Sequence[Stage], paths: Paths, *, processes: int = 1):
        self._stages = tuple(stages)
        self._paths = paths
        self._processes = processes
        self._keys = stage_keys(stages)
        self._running: list[_Running] = []
        self._results: dict[str, StageResult] = {}
        self._signal: signal.Signals | None = None

    def run(self) -> list[StageResult]:
        """Do every stage that is not done yet, in order; stop at the first that fails or at a signal.

        Only one recipe works below a base directory at a time; a second one waits.
        """
        home = self._paths.metrics("recipe").parent
        lock = file_lock(home / "lock", message="another recipe works in this base directory: waiting for it")
        with lock, self._signals(), self._metrics() as metrics, self._no_orphans():
            record = Record(home / "record.json")
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
        record = Record(self._paths.metrics("recipe").parent / "record.json")
        fresh: dict[str, bool] = {}
        for stage in self._stages:
            fresh[stage.name] = self._up_to_date(stage, record) and all(fresh[name] for name in stage.needs)
        return fresh

    def _up_to_date(self, stage: Stage, record: Record) -> bool:
        return record.state(stage.name, self._keys[stage.name]) == DONE and stage.complete(self._paths)

    def _start(self, stage: Stage, record: Record) -> None:
        key = self._keys[stage.name]
        if stage.run is not None and record.state(stage.name, key) is None:
            folders = {
                "checkpoints": self._paths.checkpoints(stage.run),
                "runs": self._paths.metrics(stage.run).parent,
            }
            home = set_aside(self._paths, stage.run, folders)
            if home is not None:
                say(f"an earlier run {stage.run} was made otherwise: moved to {home}")
        record.forget(dependents(self._stages, stage.name))
        record.set(stage.name, key, STARTED)
        number = 1 + [other.name for other in self._stages].index(stage.name)
        say(f"[{number}/{len(self._stages)}] {stage.name}: {stage.command}")
        log = None
        if stage.background:
            path = self._paths.metrics("recipe").with_name(f"{stage.name}.log")
            say(f"{stage.name} goes on in the background, its output in {path}")
            log = open(path, "wb")  # noqa: SIM115 - closed when the stage is reaped
        process = subprocess.Popen(
            self._command(stage),
            stdin=subprocess.DEVNULL,
            stdout=log or STDERR,  # stdout belongs to the recipe's own result
            stderr=log,
            process_group=0,  # so that a Ctrl-C reaches the stage once, through us
        )
        self._running.append(_Running(stage, process, time.monotonic(), log))
        if self._signal is not None:  # it came while the process was being made
            self._send(self._running[-1], PASSED_ON[self._signal])

    def _send(self, running: _Running, number: signal.Signals) -> None:
        """Signal a stage; under torchrun its workers, which save and end well, and torchrun after them."""
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
        """Wait for those of the named stages that run, and write down how they ended."""
        for running in [running for running in self._running if running.stage.name in names]:
            stage, code = running.stage, running.process.wait()
            self._running.remove(running)
            if running.log is not None:
                running.log.close()
            result = StageResult(stage.name, *self._verdict(running, code))
            self._results[stage.name] = result
            if result.status == "done":
                record.set(stage.name, self._keys[stage.name], DONE)
            key = self._keys[stage.name]
            metrics.log(StageRow(stage.name, key, stage.argv, result.status, result.wall_s))
            say(f"{stage.name}: {result.status} after {duration(result.wall_s)}")

    def _verdict(self, running: _Running, code: int) -> tuple[str, float, int]:
        wall_s = time.monotonic() - running.began
        if self._signal is not None and code in _stopped_by(PASSED_ON[self._signal]):
            complete = code == 0 and running.stage.complete(self._paths)
            return ("done" if complete else "interrupted"), wall_s, 0
        if code != 0:
            return "failed", wall_s, code if code > 0 else 128 - code
        if not running.stage.complete(self._paths):
            say(f"{running.stage.name} ended without leaving what it should")
            return "failed", wall_s, 1
        return "done", wall_s, 0

    def _stopped(self) -> bool:
        failed = any(result.status in ("failed", "interrupted") for result in self._results.values())
        return failed or self._signal is not None

    def _stop_background(self) -> None:
        """After a failure nothing goes on behind the person's back; a signal has reached every stage already."""
        if self._stopped() and self._signal is None:
            self._signal = signal.SIGTERM
            for running in self._running:
                running.process.terminate()

    @contextmanager
    def _no_orphans(self) -> Iterator[None]:
        try:
            yield
        finally:  # only an error on our own side, such as a full disk, leaves any running
            for running in self._running:
                running.process.terminate()
                running.process.wait()

    def _metrics(self) -> Metrics:
        path = self._paths.metrics("recipe")
        return open_metrics(path, "recipe", wandb_run="dummy", config={}, enabled=True, resume=True)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def pass_on(number: int, _frame: object) -> None:
            self._signal = signal.Signals(number)
            for running in self._running:
                self._send(running, PASSED_ON[self._signal])

        before = {number: signal.signal(number, pass_on) for number in PASSED_ON}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _stopped_by(number: signal.Signals) -> tuple[int, ...]:
    """Exit statuses of a process that a signal has stopped: after saving, by dying of it, by saying so."""
    return 0, -number, 128 + number
