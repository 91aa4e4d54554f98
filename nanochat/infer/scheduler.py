"""Decides which requests the model runs next, and in which rows of the cache. Holds no tensors."""

from collections import deque
from typing import NamedTuple

from nanochat.infer.request import Request


class EngineStep(NamedTuple):
    """The requests of one step; they occupy contiguous cache rows, in this order, from `first_row`."""

    first_row: int
    requests: list[Request]


class Scheduler:
    """Continuous batching: waiting requests take the next free row; running requests occupy rows 0 … n-1.

    Args:
        max_rows: requests that run at once.
        prefill_tokens: new prompts run in one step while their total, padded to the longest, stays within this
            limit, which bounds the memory of a step. A longer prompt runs alone.

    Raises ValueError for max_rows below 1.
    """

    def __init__(self, max_rows: int, prefill_tokens: int):
        if max_rows < 1:
            raise ValueError(f"an engine needs at least 1 row, not {max_rows}")
        self._max_rows = max_rows
        self._prefill_tokens = prefill_tokens
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []  # the request in cache row i, for every i

    @property
    def busy(self) -> bool:
        """Whether any request is waiting or running."""
        return bool(self._waiting or self._running)

    def add(self, request: Request) -> None:
        """Append a request to the queue."""
        self._waiting.append(request)

    def schedule(self) -> EngineStep:
        """The next step: new requests if there is room for any (prefill), else all running ones (one token each).

        New requests come first because an empty row costs as much as a running one.
        """
        first_row, longest = len(self._running), 0
        while self._waiting and len(self._running) < self._max_rows:
            longest = max(longest, len(self._waiting[0].pending))
            admitted = len(self._running) - first_row
            if admitted and longest * (admitted + 1) > self._prefill_tokens:
                break
            self._running.append(self._waiting.popleft())
        if first_row == len(self._running):
            first_row = 0
        return EngineStep(first_row, self._running[first_row:])

    def find(self, request_id: int) -> Request | None:
        """The waiting or running request with this id, or None."""
        return next((r for r in (*self._running, *self._waiting) if r.id == request_id), None)

    def remove(self, request: Request) -> tuple[int, int] | None:
        """Remove a request. Returns (source, destination) if a cache row must move to close the gap, else None.

        The last row moves into the gap, which keeps the rows contiguous with a single copy.
        """
        if request not in self._running:
            self._waiting.remove(request)
            return None
        row = self._running.index(request)
        last = self._running.pop()
        if last is request:
            return None
        self._running[row] = last
        return len(self._running), row
