"""Hooks that run between steps: save, log, evaluate, sample. Saving comes before evaluating."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nanochat.checkpoint import store
from nanochat.checkpoint.meta import CheckpointMeta
from nanochat.console import ProgressBar, amount, counted, duration, say, warn
from nanochat.eval.samples import sample
from nanochat.infer.engine import Engine
from nanochat.metrics import Metrics
from nanochat.metrics_rows import EvalRow, SampleRow, TrainRow
from nanochat.train.state import Trainer
from nanochat.train.step import StepResult

SAVE_SHARE = 0.02
"""Timed saves take at most this share of the time, whatever the size of the model and the speed of the disk."""
_LOSS_SMOOTHING = 0.95


def _every(interval: int, step: int) -> bool:
    return interval > 0 and step % interval == 0


@dataclass
class Save:
    """Checkpoints every `every` steps, every `minutes`, at the end, and when asked to stop."""

    directory: Path
    every: int
    minutes: float
    keep_last: int
    meta: CheckpointMeta
    """The run's meta; `progress` is filled in at each save."""
    _saved_at: float = field(default_factory=time.monotonic)
    _cost_s: float = 0.0

    def after_step(self, trainer: Trainer, result: StepResult, *, last: bool) -> None:
        """Save if due: by step count, by time, or because no step follows."""
        step = trainer.progress.step
        due = last or _every(self.every, step)
        if not due and self.minutes > 0:
            due = trainer.runtime.processes.decide(self._overdue)
        if due:
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Commit the current state."""
        began = time.monotonic()
        optimizer = trainer.optimizer.state_dict()  # a collective call
        with trainer.runtime.processes.together("saving"):
            if trainer.runtime.is_main:
                self._write(trainer, optimizer)
        self._saved_at = time.monotonic()
        self._cost_s = self._saved_at - began

    def _write(self, trainer: Trainer, optimizer: dict[str, Any]) -> None:
        store.save(
            self.directory,
            replace(self.meta, progress=trainer.progress),
            trainer.model.state_dict(),
            optimizer,
            keep_last=self.keep_last,
        )

    def _overdue(self) -> bool:
        waited = time.monotonic() - self._saved_at
        return waited > max(60 * self.minutes, self._cost_s / SAVE_SHARE)


@contextmanager
def _aside(trainer: Trainer, what: str) -> Iterator[None]:
    """Run the body in evaluation mode. Training survives its failure (most often out of memory), and before the last
    step a request to stop abandons it."""
    tolerating = trainer.runtime.processes.tolerating(
        f"{what} at step {trainer.progress.step}", skippable=not trainer.finished
    )
    trainer.model.eval()
    try:
        with tolerating:
            yield
    finally:
        trainer.model.train()


@dataclass
class Evaluate:
    """Validation bits per byte every `every` steps and at the end of the schedule. A failure is only a warning.

    Evaluations before the end take at most `share` of the time since the run started or resumed: one that would take
    more is put off. The first, whose cost nobody knows, is never put off.
    """

    every: int
    score: Callable[[Trainer], dict[str, float]]
    """Named figures, for instance {"val_bpb": 1.2}; the same on every process. Parts that may fail must run
    inside `Processes.together`."""
    metrics: Metrics
    share: float = 1.0
    latest: dict[str, float] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    _began: float = field(init=False)
    _due: bool = False
    _spent_s: float = 0.0
    _last_s: float = 0.0

    def __post_init__(self) -> None:
        self._began = self.clock()

    def after_step(self, trainer: Trainer, result: StepResult, *, last: bool) -> None:
        """Evaluate if due and within the share of the time."""
        self._due |= _every(self.every, trainer.progress.step)
        if trainer.finished or (self._due and self._within_share(trainer)):
            self.evaluate(trainer)

    def _within_share(self, trainer: Trainer) -> bool:
        """Whether another evaluation like the last one keeps to the share, by the clock of process 0."""
        return self.share == 1 or trainer.runtime.processes.decide(
            lambda: self._spent_s + self._last_s <= self.share * (self.clock() - self._began + self._last_s)
        )

    def evaluate(self, trainer: Trainer) -> None:
        """Score, log and print; a failure on any process causes one warning."""
        step, began = trainer.progress.step, self.clock()
        self._due = False
        with _aside(trainer, "evaluation"):
            self.latest = self.score(trainer)
            with trainer.runtime.processes.together("logging the evaluation"):
                self.metrics.log(EvalRow.of(step, self.latest))
            figures = ", ".join(f"{name} {value:.4f}" for name, value in self.latest.items())
            say(f"step {step}: {figures}")
        self._last_s = self.clock() - began
        self._spent_s += self._last_s


@dataclass
class SampleText:
    """A few greedy continuations every `every` steps and at the end of the schedule."""

    every: int
    prompts: Sequence[str]
    metrics: Metrics

    def after_step(self, trainer: Trainer, result: StepResult, *, last: bool) -> None:
        """Sample if due."""
        if _every(self.every, trainer.progress.step) or trainer.finished:
            self.show(trainer)

    def show(self, trainer: Trainer) -> None:
        """Sample, log and print."""
        if self.prompts:
            with _aside(trainer, "sampling"), trainer.runtime.processes.together("sampling"):
                if trainer.runtime.is_main:
                    self._sample(trainer)

    def _sample(self, trainer: Trainer) -> None:
        engine = Engine(trainer.model, trainer.tokenizer, max_rows=len(self.prompts), tools=None)
        for text in sample(engine, trainer.tokenizer, self.prompts):
            self.metrics.log(SampleRow(trainer.progress.step, text.prompt, text.text))
            say(f"  {text.prompt}|{text.text}")


@dataclass
class Log:
    """A metrics row and the progress line, every step."""

    metrics: Metrics
    bar: ProgressBar
    flops_per_token: float
    peak_flops: float | None
    """FLOP/s of all devices together; None if unknown, then no MFU is shown."""
    smooth_loss: float | None = None
    rates: list[float] = field(default_factory=list)

    def after_step(self, trainer: Trainer, result: StepResult, *, last: bool) -> None:
        """Log the step; after the last one, print a summary."""
        progress = trainer.progress
        rate = result.tokens / result.seconds
        self.rates.append(rate)
        mfu = rate * self.flops_per_token / self.peak_flops if self.peak_flops else None
        if result.skipped:
            warn(f"step {progress.step} skipped: loss {result.loss}, gradient norm {result.grad_norm}")
        else:
            before = self.smooth_loss if self.smooth_loss is not None else result.loss
            self.smooth_loss = _LOSS_SMOOTHING * before + (1 - _LOSS_SMOOTHING) * result.loss
        self.metrics.log(
            TrainRow(
                step=progress.step,
                total_steps=trainer.schedule.total_steps,
                tokens=progress.tokens,
                loss=result.loss,
                lr=result.lr,
                grad_norm=result.grad_norm,
                tok_per_s=rate,
                mfu=mfu,
                elapsed_s=progress.elapsed_s,
                skipped_steps=progress.skipped_steps,
            )
        )
        shown = {
            "loss": f"{result.loss if self.smooth_loss is None else self.smooth_loss:.3f}",
            **result.shown,
            "tok/s": amount(rate),
        }
        if mfu is not None:
            shown["mfu"] = f"{mfu:.1%}"
        self.bar.update(progress.step, **shown)
        if last:
            took, median = duration(progress.elapsed_s), statistics.median(self.rates)
            say(
                f"{counted(progress.step, 'step')}, {amount(progress.tokens)} tokens in {took}, "
                f"median {median:.0f} tok/s"
            )
