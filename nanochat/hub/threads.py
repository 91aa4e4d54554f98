"""Work in threads that may be left behind: a silent server must not keep an interrupt or a fault waiting."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from threading import Event, Lock, Thread
from typing import TypeVar

Work = TypeVar("Work")
Result = TypeVar("Result")
_GRACE_S = 0.5  # in which the threads that are not stuck come to their end


class CancelledError(Exception):
    """The whole work was given up; partial files stay for the next run."""


class Cancellation(Event):
    """Tells threads to end. Once `set` has returned, what they do under `unless_set` is done or never begins."""

    def __init__(self) -> None:
        super().__init__()
        self._writing = Lock()

    def set(self) -> None:
        with self._writing:
            super().set()

    @contextmanager
    def unless_set(self) -> Iterator[None]:
        """Hold `set` off for a change on the disk. Raises CancelledError where it came before."""
        with self._writing:
            if self.is_set():
                raise CancelledError
            yield


@contextmanager
def in_threads(
    work: Callable[[Work, Cancellation], Result], items: Sequence[Work], workers: int
) -> Iterator[list[Future[Result]]]:
    """The futures of `work(item, cancellation)`, in the order of the items, `workers` at a time.

    Leaving before all are done sets the cancellation; a thread that is stuck in a read then stays behind, and
    ends with the process. Not ThreadPoolExecutor: Python waits for its threads before it exits.
    """
    cancellation = Cancellation()
    futures: list[Future[Result]] = [Future() for _ in items]
    waiting = deque(zip(items, futures, strict=True))

    def labour() -> None:
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
            Thread(target=labour, name="download", daemon=True).start()
        yield futures
    finally:
        cancellation.set()
        wait(futures, timeout=_GRACE_S)
