"""Packing: plans which part of which document goes where in the rows, from document lengths alone.

A row of context T holds T + 1 tokens: the first T are inputs, the last T their targets. Documents begin with
BOS. Policies:

- contiguous: documents are concatenated and cut into rows. A row begins with the last token of the previous row
  (a target there, an input here), so that every token is predicted exactly once.
- bestfit-crop: every row begins with BOS. The longest document that fits is placed in the row, repeatedly; if
  none fits, the shortest one is cut to fill the row, and its rest, with a BOS in front, becomes another document.
  A document longer than a row fills rows until the rest fits. Every token is used; the price is context, because
  the rest of a cut document is learnt without its beginning. A cut part always ends its row, so that no BOS
  follows it as a target, which would teach that the document ended there.
- bestfit-pad: like bestfit-crop, but the remaining space of a row is padded instead of filled by cutting. A
  document that fits a row is never cut; a longer one is truncated to the row.

Finding the longest document that fits takes one bit operation: available lengths are the bits of an integer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

Policy = Literal["contiguous", "bestfit-crop", "bestfit-pad"]
PRETRAIN_POLICY: Policy = "bestfit-crop"  # comparison in docs/log.md
BOS_SEGMENT = -1  # document number of a single BOS, before the rest of a cut document
PAD_SEGMENT = -2  # document number of padding, which is never a target


@dataclass(frozen=True)
class Plan:
    """The segments that make up the rows, in order, as int64 arrays of equal length.

    Segment i is `length[i]` tokens of `document[i]` (or BOS_SEGMENT, PAD_SEGMENT) from token `start[i]` on.
    Concatenated they are a stream; row r is its tokens [r * stride, r * stride + T + 1). Under contiguous, tokens
    at the end that are too few for a row precede the next plan's stream; the other policies fill all rows.
    """

    document: np.ndarray
    start: np.ndarray
    length: np.ndarray
    stride: int
    row_dropped: np.ndarray
    """Tokens in no row, counted at the row where they were cut off; empty if contiguous."""
    row_padded: np.ndarray
    """Padding tokens of each row; empty if contiguous."""
    cuts: int
    """How often a document, or the rest of one, was cut."""

    @property
    def inserted(self) -> int:
        """Number of extra BOS tokens."""
        return int((self.document == BOS_SEGMENT).sum())

    def rows(self, max_seq_len: int) -> Iterator[list[tuple[int, int, int]]]:
        """Each complete row as a list of (document, start, length) segments."""
        ends = np.cumsum(self.length)
        total = int(ends[-1]) if len(ends) else 0
        for begin in range(0, total - max_seq_len, self.stride):
            row, position = [], begin
            index = int(np.searchsorted(ends, position, side="right"))
            while position < begin + max_seq_len + 1:
                offset = position - int(ends[index] - self.length[index])
                taken = min(int(ends[index]), begin + max_seq_len + 1) - position
                row.append((int(self.document[index]), int(self.start[index]) + offset, taken))
                position, index = position + taken, index + 1
            yield row


def plan_rows(lengths: np.ndarray, max_seq_len: int, policy: Policy, rng: np.random.Generator) -> Plan:
    """Pack documents of `lengths` tokens (including BOS) into rows of context `max_seq_len`.

    `rng` shuffles the documents under contiguous; under the other policies it breaks ties between equally long
    documents and shuffles the rows. Raises ValueError for an unknown policy.
    """
    if policy not in POLICIES:
        raise ValueError(f"unknown packing policy {policy!r}: choose {', '.join(POLICIES)}")
    return POLICIES[policy](np.asarray(lengths, dtype=np.int64), max_seq_len, rng)


def _contiguous(lengths: np.ndarray, max_seq_len: int, rng: np.random.Generator) -> Plan:
    order = rng.permutation(len(lengths))
    none = np.zeros(0, dtype=np.int64)
    return Plan(order, np.zeros_like(order), lengths[order], max_seq_len, none, none, cuts=0)


Segment = tuple[int, int, int]


class _Stock:
    """Documents, or rests of documents, not yet in a row, indexed by the room they need."""

    def __init__(self, capacity: int):
        self._by_size: list[list[Segment]] = [[] for _ in range(capacity + 1)]
        self._sizes = 0  # bit n is set if there is a segment of size n

    def add(self, document: int, start: int, length: int) -> None:
        size = length + (start > 0)  # with the BOS before the rest of a document
        self._by_size[size].append((document, start, length))
        self._sizes |= 1 << size

    def take_longest(self, room: int) -> Segment | None:
        """Remove and return the longest segment that needs at most `room`, or None."""
        fitting = self._sizes & ((2 << room) - 1)
        return self._take(fitting.bit_length() - 1) if fitting else None

    def take_shortest(self) -> Segment | None:
        """Remove and return the shortest segment, or None."""
        return self._take((self._sizes & -self._sizes).bit_length() - 1) if self._sizes else None

    def _take(self, size: int) -> Segment:
        segments = self._by_size[size]
        segment = segments.pop()
        if not segments:
            self._sizes ^= 1 << size
        return segment


def _bestfit(lengths: np.ndarray, max_seq_len: int, rng: np.random.Generator, *, crop: bool) -> Plan:
    capacity = max_seq_len + 1
    order = rng.permutation(len(lengths))
    stock, rows, dropped = _full_rows(order.tolist(), lengths[order].tolist(), capacity, crop=crop)
    cuts = len(rows)
    while (first := stock.take_longest(capacity)) is not None:
        row = _with_bos(first)
        room = capacity - _size(row)
        while room:
            segment = stock.take_longest(room)
            if segment is None and crop and (segment := stock.take_shortest()) is not None:
                segment, rest = _cut(segment, room)
                stock.add(*rest)
                cuts += 1
            laid = [(PAD_SEGMENT, 0, room)] if segment is None else _with_bos(segment)
            row += laid
            room -= _size(laid)
        rows.append(row)
        dropped.append(0)
    shuffled = rng.permutation(len(rows))
    padded = [row[-1][2] if row[-1][0] == PAD_SEGMENT else 0 for row in rows]
    table = np.array([segment for row in shuffled for segment in rows[row]], dtype=np.int64).reshape(-1, 3)
    return Plan(
        document=table[:, 0],
        start=table[:, 1],
        length=table[:, 2],
        stride=capacity,
        row_dropped=np.array(dropped, dtype=np.int64)[shuffled],
        row_padded=np.array(padded, dtype=np.int64)[shuffled],
        cuts=cuts,
    )


def _full_rows(
    documents: list[int], lengths: list[int], capacity: int, *, crop: bool
) -> tuple[_Stock, list[list[Segment]], list[int]]:
    """(stock of segments that fit a row, rows filled by longer documents, tokens dropped at each of those rows)."""
    stock = _Stock(capacity)
    rows: list[list[Segment]] = []
    dropped: list[int] = []
    for document, length in zip(documents, lengths, strict=True):
        rest: Segment = (document, 0, length)
        while _size(_with_bos(rest)) > capacity:
            head, rest = _cut(rest, capacity)
            rows.append(_with_bos(head))
            dropped.append(0 if crop else rest[2])
            if not crop:
                break
        else:
            stock.add(*rest)
    return stock, rows, dropped


def _size(segments: list[Segment]) -> int:
    return sum(length for _, _, length in segments)


def _with_bos(segment: Segment) -> list[Segment]:
    _, start, length = segment
    bos: list[Segment] = [(BOS_SEGMENT, 0, 1)] if start else []
    return [*bos, segment] if length else bos


def _cut(segment: Segment, room: int) -> tuple[Segment, Segment]:
    """(the part that fills `room`, including its extra BOS; the rest)."""
    document, start, length = segment
    head = room - (start > 0)
    return (document, start, head), (document, start + head, length - head)


POLICIES: dict[Policy, Callable[[np.ndarray, int, np.random.Generator], Plan]] = {
    "contiguous": _contiguous,
    "bestfit-crop": lambda lengths, max_seq_len, rng: _bestfit(lengths, max_seq_len, rng, crop=True),
    "bestfit-pad": lambda lengths, max_seq_len, rng: _bestfit(lengths, max_seq_len, rng, crop=False),
}
