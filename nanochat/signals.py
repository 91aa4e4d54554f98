"""Signal handlers for the length of a block."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SignalHandler = Callable[[int, FrameType | None], object]


@contextmanager
def handle_signals(handler: SignalHandler, *numbers: signal.Signals) -> Iterator[None]:
    """Within the block, `handler` receives these signals; afterwards whoever had them before does.

    Raises ValueError outside the main thread, where Python sets no handler.
    """
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
