"""The loop of every training stage: next batch, step, hooks - until the schedule ends or someone asks to stop."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

from nanochat.console import say
from nanochat.processes import Processes, under_torchrun
from nanochat.train.state import Trainer
from nanochat.train.step import StepResult, train_step

_TORCHRUN_GRACE_S = 30.0  # its default between the first signal and SIGKILL


class Hook(Protocol):
    """Something to do between steps. Hooks run in order on every process; they alone evaluate, log and save."""

    def after_step(self, trainer: Trainer, result: StepResult, *, last: bool) -> None:
        """`last`: no step follows, because the run is complete or was asked to stop."""


def train(trainer: Trainer, hooks: Sequence[Hook]) -> bool:
    """Run to the end of the schedule; returns whether it was reached (False: stopped by a signal, and saved)."""
    processes = trainer.runtime.processes
    with _stop_signals(processes) as stop_requested:
        while not trainer.finished:
            result = train_step(trainer)
            stopping = processes.any(stop_requested())
            for hook in hooks:
                hook.after_step(trainer, result, last=stopping or trainer.finished)
            if stopping:
                break
    return trainer.finished


@contextmanager
def _stop_signals(processes: Processes) -> Iterator[Callable[[], bool]]:
    """SIGTERM and SIGINT ask for a stop: the present step is finished and saved, an evaluation is abandoned.

    A second signal ends the process at once. Not so under torchrun, which passes on Ctrl-C as one signal and, when it
    is pressed again, as another: there the second one counts only after the time that torchrun leaves for saving.
    """
    received: list[float] = []

    def receive(number: int, _: FrameType | None) -> None:
        name, now = signal.Signals(number).name, time.monotonic()
        if received:
            if not under_torchrun() or now - received[0] > _TORCHRUN_GRACE_S:
                raise KeyboardInterrupt
            return
        received.append(now)
        again = "" if under_torchrun() else " (once more to end at once)"
        say(f"{name}: stopping after this step{again}")
        processes.interrupt(name)

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, receive) for number in numbers}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
