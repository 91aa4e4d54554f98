"""Worker threads that can be abandoned, so that a stalled server cannot delay Ctrl-C or an error."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from threading import Event, Lock, Thread
from typing import TypeVar

Work = TypeVar("Work")
Result = TypeVar("Result")
_GRACE_S = 0.5  # for threads that are not stuck to end


class CancelledError(Exception):
    """The work was cancelled; partial files remain for the next run."""


class Cancellation(Event):
    """Tells threads to end. After `set` returns, no thread is inside `unless_set`, and none can enter it."""

    def __init__(self) -> None:
        super().__init__()
        self._writing = Lock()

    def set(self) -> None:
        """Cancel. Waits for threads that are inside `unless_set`."""
        with self._writing:
            super().set()

    @contextmanager
    def unless_set(self) -> Iterator[None]:
        """Delay `set` during a change on the disk. Raises CancelledError if already cancelled."""
        with self._writing:
            if self.is_set():
                raise CancelledError
            yield


@contextmanager
def in_threads(
    work: Callable[[Work, Cancellation], Result], items: Sequence[Work], workers: int
) -> Iterator[list[Future[Result]]]:
    """Run `work(item, cancellation)` for each item on `workers` threads; yields the futures in the items' order.

    Leaving the context sets the cancellation. A thread stuck in a read is abandoned and ends with the process.
    ThreadPoolExecutor would not do: Python waits for its threads at exit.
    """
    cancellation = Cancellation()
    futures: list[Future[Result]] = [Future() for _ in items]
    waiting = deque(zip(items, futures, strict=True))

    def worker() -> None:
        while True:
            try:
                item, future = waiting.popleft()
            except IndexError:
                return
            try:
                future.set_result(work(item, cancellation))
            except BaseException as error:
                future.set_exception(error)

    try:
        for _ in range(min(workers, len(items))):
            Thread(target=worker, name="download", daemon=True).start()
        yield futures
    finally:
        cancellation.set()
        wait(futures, timeout=_GRACE_S)
