"""The loop of every training stage: batch, step, hooks, until the schedule ends or a stop is requested."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

from nanochat.console import say
from nanochat.processes import Processes, under_torchrun
from nanochat.signals import handle_signals
from nanochat.train.state import Trainer
from nanochat.train.step import StepResult, train_step

_TORCHRUN_GRACE_S = 30.0  # torchrun's default delay between the first signal and SIGKILL


class Hook(Protocol):
    """An action between steps. Hooks run in order on every process; all evaluating, logging and saving is in hooks."""

    def after_step(self, trainer: Trainer, result: StepResult, *, last: bool) -> None:
        """Called after each step. `last`: no step follows, because the run is complete or must stop."""


Step = Callable[[Trainer], StepResult]
"""Updates the model once and advances `trainer.progress`."""


def train(trainer: Trainer, hooks: Sequence[Hook], step: Step = train_step) -> bool:
    """Train to the end of the schedule. Returns False if a signal stopped the run earlier."""
    processes = trainer.runtime.processes
    with _stop_signals(processes) as stop_requested:
        while not trainer.finished:
            result = step(trainer)
            stopping = processes.any(stop_requested())
            for hook in hooks:
                hook.after_step(trainer, result, last=stopping or trainer.finished)
            if stopping:
                break
    return trainer.finished


@contextmanager
def _stop_signals(processes: Processes) -> Iterator[Callable[[], bool]]:
    """SIGTERM and SIGINT request a stop: the current step is finished and saved, an evaluation is abandoned.

    A second signal ends the process at once, except under torchrun, which forwards every Ctrl-C: there it is ignored
    during the grace period that torchrun allows for saving.
    """
    received: list[float] = []

    def receive(number: int, _: FrameType | None) -> None:
        name, now = signal.Signals(number).name, time.monotonic()
        if received:
            if not under_torchrun() or now - received[0] > _TORCHRUN_GRACE_S:
                raise KeyboardInterrupt
            return
        received.append(now)
        again = "" if under_torchrun() else " (repeat to quit at once)"
        say(f"{name}: stopping after this step{again}")
        processes.interrupt(name)

    with handle_signals(receive, signal.SIGTERM, signal.SIGINT):
        yield lambda: bool(received)
