"""Endless rows of tokens, a pure function of the data, the seed and the number of rows already taken.

Data come in windows (a piece of the token cache, or some rows of conversations). Each window is packed, laid out
as one flat array and sliced into rows, so that no loop runs over tokens. A position names a window and an offset
in it: a few plain numbers from which the same rows continue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from nanochat.batches.packing import PAD_SEGMENT, Plan, Policy, plan_rows
from nanochat.batches.position import RowPosition
from nanochat.batches.token_cache import TokenStore
from nanochat.conversations.rendering import RenderedConversations
from nanochat.model.loss import IGNORE

Place = tuple[int, ...]


@dataclass(frozen=True)
class PackingReport:
    """How tokens were used so far, over all processes."""

    used: int  # targets
    cropped: int  # document tokens in no row
    padded: int
    epochs: float


@dataclass(frozen=True)
class Window:
    """The concatenated rows of one window, named by `place`; `learn` is False for tokens that are no targets."""

    place: Place
    tokens: np.ndarray
    learn: np.ndarray | None
    plan: Plan


class WindowSource(Protocol):
    """An endless source of windows; `first` is the place of the first one."""

    first: Place

    def windows(self, place: Place) -> Iterator[Window]:
        """Endless windows, starting with the one at `place`."""

    def epochs(self, place: Place, offset: int) -> float:
        """Passes over the data after `offset` tokens of the window at `place`."""


class RowStream:
    """Rows of `max_seq_len` inputs and targets from a source, resumed from `position` if given.

    Raises ValueError for a position that was counted by another kind of source.
    """

    def __init__(self, source: WindowSource, max_seq_len: int, position: RowPosition | None = None):
        position = position or RowPosition(source.first)
        if len(position.place) != len(source.first):
            raise ValueError(f"cannot resume the data stream: {position.place} is no place in it")
        self._source, self.max_seq_len = source, max_seq_len
        self._place = position.place
        self._offset = position.offset  # of the next row in the first held window
        self._rows, self._dropped, self._padded = position.rows, position.dropped, position.padded
        self._windows = source.windows(self._place)
        self._held: deque[Window] = deque()
        self._tokens = np.empty(0, dtype=np.uint16)  # of all held windows
        self._learn: np.ndarray | None = None

    def take(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """The next rows: int64 inputs and targets, both (rows, context)."""
        inputs = np.empty((rows, self.max_seq_len), dtype=np.int64)
        targets = np.empty_like(inputs)
        done = 0
        while done < rows:
            count = min(self._available(), rows - done)
            view = self._view(self._tokens, count)
            inputs[done : done + count] = view[:, :-1]
            targets[done : done + count] = view[:, 1:]
            if self._learn is not None:
                targets[done : done + count][~self._view(self._learn, count)[:, 1:]] = IGNORE
            self._advance(count)
            done += count
        return inputs, targets

    def skip(self, rows: int) -> None:
        """Advance by `rows` rows, as `take` does, without gathering them."""
        while rows:
            count = min(self._available(), rows)
            self._advance(count)
            rows -= count

    def position(self) -> RowPosition:
        """The position to resume after the last row taken or skipped."""
        return RowPosition(self._place, self._offset, self._rows, self._dropped, self._padded)

    def report(self, position: RowPosition) -> PackingReport:
        """The packing report up to `position`."""
        epochs = self._source.epochs(position.place, position.offset)
        used = position.rows * self.max_seq_len - position.padded
        return PackingReport(used, position.dropped, position.padded, epochs)

    def _view(self, flat: np.ndarray, rows: int) -> np.ndarray:
        step = flat.strides[0]
        shape, strides = (rows, self.max_seq_len + 1), (self._held[0].plan.stride * step, step)
        return np.lib.stride_tricks.as_strided(flat[self._offset :], shape, strides, writeable=False)

    def _available(self) -> int:
        """Number of complete rows in the held windows; fetches windows until there is at least one."""
        while True:
            spare = len(self._tokens) - self._offset - (self.max_seq_len + 1)
            if spare >= 0:
                return spare // self._held[0].plan.stride + 1
            self._append(next(self._windows))

    def _append(self, window: Window) -> None:
        self._retire(keep=0)
        self._held.append(window)
        self._place = self._held[0].place
        self._tokens = np.concatenate([held.tokens for held in self._held])
        self._learn = None
        if any(held.learn is not None for held in self._held):
            learn = (np.ones(len(w.tokens), dtype=bool) if w.learn is None else w.learn for w in self._held)
            self._learn = np.concatenate(list(learn))

    def _advance(self, rows: int) -> None:
        planned = self._held[0].plan
        row = self._offset // planned.stride
        self._dropped += int(planned.row_dropped[row : row + rows].sum())
        self._padded += int(planned.row_padded[row : row + rows].sum())
        self._rows += rows
        self._offset += rows * planned.stride
        self._retire(keep=1)  # the position needs the place of the last window

    def _retire(self, keep: int) -> None:
        """Release windows that are used up, except the last `keep`."""
        while len(self._held) > keep and self._offset >= (used := len(self._held[0].tokens)):
            self._held.popleft()
            self._offset -= used
            self._tokens = self._tokens[used:]
            self._learn = None if self._learn is None else self._learn[used:]
            self._place = self._held[0].place if self._held else self._place


class TokenWindows:
    """Pretraining: a window is a piece of the token cache.

    Every epoch shuffles the order of shards and the documents within each piece.
    """

    first: Place = (0, 0, 0)  # epoch, position in the epoch's order of shards, piece

    def __init__(self, store: TokenStore, bos: int, max_seq_len: int, policy: Policy, seed: int):
        self._store, self._bos, self._max_seq_len = store, bos, max_seq_len
        self._policy, self._seed = policy, seed

    def windows(self, place: Place) -> Iterator[Window]:
        """Endless windows, starting with the one at `place`. Raises ValueError if the split has no document."""
        epoch, begin, piece = place
        while True:
            order, found = self._order(epoch), begin > 0
            for position in range(begin, len(order)):
                self._store.expect(order, position)
                while (tokens := self._store.piece(order[position], piece)) is not None:
                    rng = np.random.default_rng([self._seed, epoch, order[position], piece])
                    planned = plan_rows(tokens.lengths, self._max_seq_len, self._policy, rng)
                    flat = _lay_out(planned, tokens.tokens, tokens.offsets, self._bos)
                    yield Window((epoch, position, piece), flat, _not_padding(planned), planned)
                    piece, found = piece + 1, True
                piece = 0
            if not found:
                raise ValueError("the training split has no documents: add more text")
            epoch, begin = epoch + 1, 0

    def epochs(self, place: Place, offset: int) -> float:
        """Passes over the data after `offset` tokens of the window at `place`; within a shard an estimate."""
        epoch, position, piece = place
        info = self._store.info(self._order(epoch)[position])
        share = 0.0
        if info is not None and info.tokens:
            share = min(piece / info.pieces + offset / info.tokens, 1.0)
        return epoch + (position + share) / len(self._store)

    def _order(self, epoch: int) -> list[int]:
        return np.random.default_rng([self._seed, epoch]).permutation(len(self._store)).tolist()


class ConversationWindows:
    """SFT: every epoch packs all conversations in a new order; a window is `window_rows` of the epoch's rows."""

    first: Place = (0, 0)  # epoch, window in it
    window_rows = 64

    def __init__(self, conversations: RenderedConversations, bos: int, max_seq_len: int, seed: int):
        self._conversations, self._bos = conversations, bos
        self._max_seq_len, self._seed = max_seq_len, seed
        self.rows_per_epoch = len(self._plan(0).row_padded)  # best fit makes the same number in every order

    def windows(self, place: Place) -> Iterator[Window]:
        """Endless windows, starting with the one at `place`."""
        epoch, first = place
        while True:
            whole = self._plan(epoch)
            ends = np.searchsorted(np.cumsum(whole.length), np.arange(self.rows_per_epoch + 1) * whole.stride)
            for window in range(first, -(-self.rows_per_epoch // self.window_rows)):
                rows = slice(window * self.window_rows, (window + 1) * self.window_rows)
                part = _rows_of(whole, rows, ends)
                flat = _lay_out(part, self._conversations.ids, self._conversations.offsets, self._bos)
                learn = _lay_out(part, self._conversations.mask, self._conversations.offsets, False)
                yield Window((epoch, window), flat, learn, part)
            epoch, first = epoch + 1, 0

    def epochs(self, place: Place, offset: int) -> float:
        """Passes over the conversations after `offset` tokens of the window at `place`."""
        epoch, window = place
        return epoch + (window * self.window_rows + offset // (self._max_seq_len + 1)) / self.rows_per_epoch

    def _plan(self, epoch: int) -> Plan:
        rng = np.random.default_rng([self._seed, epoch])
        return plan_rows(np.diff(self._conversations.offsets), self._max_seq_len, "bestfit-pad", rng)


def _rows_of(whole: Plan, rows: slice, ends: np.ndarray) -> Plan:
    """The given rows of a plan; `ends[r]` is the index of the last segment before row r."""
    first = ends[rows.start] + (rows.start > 0)
    last = ends[min(rows.stop, len(ends) - 1)] + 1
    segments = slice(first, last)
    return Plan(
        whole.document[segments],
        whole.start[segments],
        whole.length[segments],
        whole.stride,
        whole.row_dropped[rows],
        whole.row_padded[rows],
        cuts=0,
    )


def _lay_out(planned: Plan, values: np.ndarray, offsets: np.ndarray, fill: int) -> np.ndarray:
    """The plan's stream of `values` (one per token), with `fill` for its extra BOS and padding."""
    inside = planned.document >= 0
    begins = np.where(inside, offsets[planned.document] + planned.start, 0)
    filling = np.full(int(planned.length.max(initial=0, where=~inside)), fill, dtype=values.dtype)
    columns = zip(inside.tolist(), begins.tolist(), (begins + planned.length).tolist(), strict=True)
    slices = [(values if real else filling)[begin:end] for real, begin, end in columns]
    return np.concatenate([values[:0], *slices])


def _not_padding(planned: Plan) -> np.ndarray | None:
    """Mask over the plan's stream, False for padding; None if there is no padding."""
    if not planned.row_padded.any():
        return None
    return np.repeat(planned.document != PAD_SEGMENT, planned.length)
