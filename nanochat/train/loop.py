"""The loop of every training stage: next batch, step, hooks - until the schedule ends or someone asks to stop."""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

from nanochat.console import say
from nanochat.train.state import Trainer
from nanochat.train.step import StepResult, agree, train_step


class Hook(Protocol):
    """Something to do between steps. Hooks run in order on every process; they alone evaluate, log and save."""

    def after_step(self, trainer: Trainer, result: StepResult, *, last: bool) -> None:
        """`last`: no step follows, because the run is complete or was asked to stop."""


def train(trainer: Trainer, hooks: Sequence[Hook]) -> bool:
    """Run to the end of the schedule; returns whether it was reached (False: stopped by a signal, and saved)."""
    with _stop_signals() as stop_requested:
        while not trainer.finished:
            result = train_step(trainer)
            stopping = agree(trainer.runtime, stop_requested())
            for hook in hooks:
                hook.after_step(trainer, result, last=stopping or trainer.finished)
            if stopping:
                break
    return trainer.finished


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """SIGTERM and SIGINT ask for a stop after the present step; a second one ends the process at once."""
    received: list[int] = []

    def receive(number: int, _: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        say(f"{signal.Signals(number).name}: stopping after this step (once more to end at once)")

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, receive) for number in numbers}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
