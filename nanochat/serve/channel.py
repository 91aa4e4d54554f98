"""How the tokens of one request reach whoever writes its response."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from nanochat.infer.request import Event

NewEvents = Mapping[int, list[Event]]
"""By sample, of those that have any."""

_PACE_SECONDS = 0.02
_MOST_WRITES = 320


def pace(streams: int) -> float:
    """Seconds between two writes of a stream, when so many streams run.

    A small model is faster than anyone reads, and a write costs as much as some tokens: at most 50 writes a second for
    one reader, and for many readers at most `_MOST_WRITES` together, but four for each.
    """
    return min(max(_PACE_SECONDS, streams / _MOST_WRITES), 0.25)


class SlowReader(Exception):  # noqa: N818 - the client's doing
    """The client reads so slowly that its answer does not fit the buffer."""


class Channel:
    """What one request receives: the events of its samples. Closing it cancels those still running.

    Args:
        samples: how many answers it receives.
        limit: events of each sample that the reader may be behind.
        cancel: called when it is closed or fails.
        pace: seconds between two batches.
    """

    def __init__(
        self,
        samples: int,
        limit: int,
        cancel: Callable[[Channel], None],
        pace: Callable[[], float] = lambda: _PACE_SECONDS,
    ):
        self.unfinished = samples
        self.overflowed = False
        self.on_overflow: Callable[[], None] = lambda: None
        self._limit: float = limit * samples
        self._cancel = cancel
        self._pace = pace
        self._loop = asyncio.get_running_loop()
        self._batch: dict[int, list[Event]] = {}
        self._held = 0  # events in the batch
        self._wake = asyncio.Event()
        self._due = 0.0  # when the reader takes the next batch
        self._timer: asyncio.TimerHandle | None = None
        self._fault: Exception | None = None
        self._closed = False

    def push(self, index: int, events: Sequence[Event]) -> None:
        """Add new events of a sample. A batch of half the limit no longer waits, which might overflow it."""
        if self._closed or self._fault is not None:
            return
        self._batch.setdefault(index, []).extend(events)
        self._held += len(events)
        self.unfinished -= events[-1].finished is not None
        if self._held > self._limit:
            self._batch, self._held = {}, 0
            self.overflowed = True
            self.fail(SlowReader())
            self.on_overflow()
        elif not self.unfinished or self._held > self._limit / 2 or self._loop.time() >= self._due:
            self._wake.set()
        elif self._timer is None and self._due < math.inf:
            self._timer = self._loop.call_at(self._due, self._wake.set)

    def fail(self, fault: Exception) -> None:
        """End the request with an error, after what has already arrived."""
        if self._fault is None:
            self._fault = fault
            self._cancel(self)
            self._wake.set()

    def close(self) -> None:
        """The client wants no more."""
        if not self._closed:
            self._closed = True
            if self.unfinished:
                self._cancel(self)
            self._wake.set()

    def wait_for_all(self) -> None:
        """Give the reader everything at once, at the end."""
        self._due = self._limit = math.inf

    async def __aiter__(self) -> AsyncIterator[NewEvents]:
        """What has arrived since the last time, until every sample is finished or it is closed.

        The first tokens come at once, later ones in batches. Raises the fault that ended the request.
        """
        while not self._closed:
            await self._wake.wait()
            self._wake.clear()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._batch:
                batch, self._batch, self._held = self._batch, {}, 0
                self._due = max(self._due, self._loop.time() + self._pace())
                yield batch
            if self._fault is not None:
                raise self._fault
            if not self.unfinished and not self._batch:
                return
