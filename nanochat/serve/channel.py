"""How the tokens of one request reach whoever writes its response."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence

from nanochat.infer.request import Event


class SlowReader(Exception):  # noqa: N818 - the client's doing
    """The client reads so slowly that its answer does not fit the buffer."""


class Channel:
    """What one request receives: the events of its samples as they arrive. Closing it cancels those still running."""

    def __init__(self, limit: int, cancel: Callable[[Channel], None]):
        self._limit, self._cancel = limit, cancel
        self._items: deque[tuple[int, Event]] = deque()
        self._wake = asyncio.Event()
        self._fault: Exception | None = None
        self._closed = False
        self.unfinished = 0
        self.overflowed = False
        self.on_overflow: Callable[[], None] = lambda: None

    def push(self, index: int, events: Sequence[Event]) -> None:
        """Add new events of a sample."""
        if self._closed or self._fault is not None:
            return
        self._items.extend((index, event) for event in events)
        self.unfinished -= events[-1].finished is not None
        if len(self._items) > self._limit:
            self._items.clear()
            self.overflowed = True
            self.fail(SlowReader())
            self.on_overflow()
        self._wake.set()

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

    async def __aiter__(self) -> AsyncIterator[list[tuple[int, Event]]]:
        """All (sample, event) that have arrived since the last time, until every sample is finished or it is closed.

        Raises the fault that ended the request.
        """
        while not self._closed:
            await self._wake.wait()
            self._wake.clear()
            if self._items:
                batch = list(self._items)
                self._items.clear()
                yield batch
            if self._fault is not None:
                raise self._fault
            if not self.unfinished and not self._items:
                return
