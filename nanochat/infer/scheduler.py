"""Which requests the model runs next, and in which rows of the cache. Holds no tensors."""

from collections import deque
from typing import NamedTuple

from nanochat.infer.request import Request


class EngineStep(NamedTuple):
    """Requests in neighbouring rows of the cache, in row order."""

    first_row: int
    requests: list[Request]


class Scheduler:
    """Continuous batching: whoever waits gets the next free row; running requests fill the rows from 0 up.

    Args:
        max_rows: how many requests run at once.
        prefill_tokens: new prompts run together as long as, padded to the longest, they stay within this;
            it bounds the memory of one step. A longer prompt runs alone.
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
        """Something waits or runs."""
        return bool(self._waiting or self._running)

    def add(self, request: Request) -> None:
        """Queue a request behind those that wait."""
        self._waiting.append(request)

    def schedule(self) -> EngineStep:
        """Newcomers with their whole prompts if there is room for any, else every running request's latest token.

        Newcomers first, because a row that stands empty costs as much as one that runs.
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
        """The request of that id, if it waits or runs."""
        return next((r for r in (*self._running, *self._waiting) if r.id == request_id), None)

    def remove(self, request: Request) -> tuple[int, int] | None:
        """Take a request out. Returns (source, destination) when a row must move to close the gap.

        The last row moves into the free place, so that rows stay side by side at the cost of one copy.
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
