"""Decides which requests the model runs next, and in which rows of the cache. Holds no tensors.

Running requests occupy rows 0 … n-1. The free rows above still hold the tokens of finished requests ("parked"). A new
request takes the row, or a copy of a running row, that begins like its prompt, so that a shared prefix is computed
once: the turns of a chat, many samples of one prompt, few-shot examples.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from nanochat.infer.request import Request

MIN_SHARED = 8
"""A shorter common prefix is computed again, which costs less than moving rows."""


@dataclass(frozen=True)
class Swap:
    """Exchange the first `length` tokens of two rows of the cache."""

    a: int
    b: int
    length: int


@dataclass(frozen=True)
class Copy:
    """Copy the first `length` tokens of a row over another."""

    source: int
    destination: int
    length: int


@dataclass(frozen=True)
class PrefillChunk:
    """The next `count` pending tokens of a request that has several."""

    row: int
    request: Request
    count: int


@dataclass(frozen=True)
class PrefillLimit:
    """How many prompt tokens a step runs, padding included. Raises ValueError if either is below 1."""

    alone: int
    """While no request decodes."""
    beside: int
    """While requests decode, so that they need not wait: this many, or twice their number if that is more."""

    def __post_init__(self) -> None:
        if min(self.alone, self.beside) < 1:
            raise ValueError(f"a step must run at least 1 prompt token, not {min(self.alone, self.beside)}")

    def tokens(self, decoding: int) -> int:
        """The limit beside this number of requests that decode."""
        return min(self.alone, max(self.beside, 2 * decoding)) if decoding else self.alone


@dataclass(frozen=True)
class EngineStep:
    """What one step runs, after its moves in their order."""

    moves: Sequence[Swap | Copy]
    decoding: Sequence[tuple[int, Request]]
    """Rows and requests with one pending token each, by row."""
    chunks: Sequence[PrefillChunk]
    """Parts of prompts and of tool outputs."""


@dataclass
class _Parked:
    """The tokens that a free row still holds, and the step in which its request ended."""

    tokens: list[int] = field(default_factory=list)
    used: int = 0


class Scheduler:
    """Continuous batching with chunked prefill (Sarathi-Serve, arXiv:2403.02310).

    A step decodes all running requests; beside them, or in turn with them, run at most `prefill` prompt tokens, so that
    running requests never wait for a long prompt.

    Args:
        max_rows: requests that run at once.
        prefill: limit of prompt tokens per step.

    Raises ValueError if max_rows is below 1.
    """

    def __init__(self, max_rows: int, prefill: PrefillLimit):
        if max_rows < 1:
            raise ValueError(f"an engine needs at least 1 row, not {max_rows}")
        self._max_rows = max_rows
        self._prefill = prefill
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []  # the request in cache row i, for every i
        self._parked: list[_Parked] = [_Parked() for _ in range(max_rows)]  # of row len(running) + i
        self._steps = 0

    @property
    def busy(self) -> bool:
        """Whether any request is waiting or running."""
        return bool(self._waiting or self._running)

    def add(self, request: Request) -> None:
        """Append a request to the queue."""
        self._waiting.append(request)

    def find(self, request_id: int) -> Request | None:
        """The waiting or running request with this id, or None."""
        return next((r for r in (*self._running, *self._waiting) if r.id == request_id), None)

    def schedule(self, prompt_tokens: float = 0) -> EngineStep:
        """Give waiting requests the free rows, then choose what to run.

        `prompt_tokens`: how many may run beside running requests, if that is more than usual; never more than alone.
        """
        self._steps += 1
        moves: list[Swap | Copy] = []
        while self._waiting and len(self._running) < self._max_rows:
            request = self._waiting[0]
            parked = [shared(request, free.tokens) for free in self._parked]
            running = [shared(request, other.tokens, other.cached) for other in self._running]
            if self._worth_waiting(request, max([*parked, *running])):
                break
            moves += self._take_row(request, parked, running)
            self._running.append(self._waiting.popleft())
        decoding = self.decoding()
        usual, most = self._prefill.tokens(len(decoding)), self._prefill.alone
        return EngineStep(moves, decoding, self._chunks(max(usual, int(min(prompt_tokens, most)))))

    def decoding(self) -> list[tuple[int, Request]]:
        """Rows and running requests with one pending token each, by row."""
        return [(row, request) for row, request in enumerate(self._running) if request.remaining == 1]

    def _chunks(self, limit: int) -> list[PrefillChunk]:
        """Requests with several pending tokens, oldest first, while padded to the longest they fit the limit."""
        chunks: list[PrefillChunk] = []
        longest = 0
        several = [(row, request) for row, request in enumerate(self._running) if request.remaining > 1]
        for row, request in sorted(several, key=lambda pair: pair[1].id):
            count = min(request.remaining, limit)
            longest = max(longest, count)
            if chunks and longest * (len(chunks) + 1) > limit:
                break
            chunks.append(PrefillChunk(row, request, count))
        return chunks

    def _worth_waiting(self, request: Request, now: int) -> bool:
        """Whether a running request is about to compute more of a request's prompt than the `now` tokens cached.

        This delays the request only while that prompt or tool output runs, which every step brings forward.
        """
        return any(
            other.remaining > 1 and shared(request, other.tokens) >= now + MIN_SHARED
            for other in self._running
        )

    def _take_row(self, request: Request, parked: Sequence[int], running: Sequence[int]) -> list[Swap | Copy]:
        """The moves that prepare row len(running) for a new request; sets how many of its tokens they bring.

        `parked`, `running`: how many of its tokens each row holds.
        """
        row = len(self._running)
        taken = max(range(len(parked)), key=parked.__getitem__)
        copies: list[Copy] = []
        if max(parked) >= MIN_SHARED and max(parked) >= max(running, default=0):
            request.cached = parked[taken]
        else:  # overwrite the row that has been free for longest
            taken = min(range(len(parked)), key=lambda i: self._parked[i].used)
            if max(running, default=0) >= MIN_SHARED:
                request.cached = max(running)
                copies = [Copy(running.index(request.cached), row, request.cached)]
        swaps = [self._swap(row, row + taken, self._parked[0].tokens, self._parked[taken].tokens)]
        self._parked[taken] = self._parked[0]
        del self._parked[0]
        return [*(swaps if taken else []), *copies]

    def remove(self, request: Request) -> Swap | None:
        """Remove a request and park its row. Returns the swap that keeps the running rows contiguous, if any."""
        if request not in self._running:
            self._waiting.remove(request)
            return None
        row, last = self._running.index(request), len(self._running) - 1
        kept = request.tokens[: request.cached]
        moved = self._running.pop()
        self._parked.insert(0, _Parked(kept, self._steps))
        if moved is request:
            return None
        self._running[row] = moved
        return self._swap(row, last, kept, moved.tokens[: moved.cached])

    @staticmethod
    def _swap(a: int, b: int, a_tokens: Sequence[int], b_tokens: Sequence[int]) -> Swap:
        return Swap(a, b, max(len(a_tokens), len(b_tokens)))

    def forget(self) -> None:
        """Forget the tokens of all parked rows: their keys and values belong to weights that have changed."""
        self._parked = [_Parked() for _ in self._parked]


def shared(request: Request, tokens: list[int], count: int | None = None) -> int:
    """How many tokens a request need not run if the first `count` of these are cached, or all of them; 0 if too few.

    It always runs its last one, for its logits.
    """
    own = request.tokens
    most = min(len(own) - 1, len(tokens) if count is None else count)
    if most < MIN_SHARED or own[:MIN_SHARED] != tokens[:MIN_SHARED]:
        return 0
    if own[:most] == tokens[:most]:
        return most
    # Bisected over slices, which are compared quicker than a loop compares tokens.
    same, differ = MIN_SHARED, most
    while differ - same > 1:
        middle = (same + differ) // 2
        if own[same:middle] == tokens[same:middle]:
            same = middle
        else:
            differ = middle
    return same
