"""Batches of rows of different lengths, with a token limit per batch, and their making in the background."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

BATCH_TOKENS = {"cuda": 65_536, "mps": 8_192, "cpu": 8_192}
"""Default number of tokens per forward pass, by device type."""


def length_batches(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Batches of row indices with rows x longest <= `max_tokens`; a longer row forms a batch alone.

    Longest first, so that padding is small and a batch too large for memory fails at the start.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        rows = max(1, max_tokens // max(1, lengths[order[start]]))
        yield order[start : start + rows]
        start += rows


def pad_right(rows: Sequence[Sequence[int]], fill: int, device: torch.device) -> Tensor:
    """int64 (B, T): each row, padded on the right with `fill`. Causal attention never sees the padding."""
    longest = max(len(row) for row in rows)
    padded = [[*row, *([fill] * (longest - len(row)))] for row in rows]
    return torch.tensor(padded, dtype=torch.int64, device=device)


def ahead(values: Iterable[T]) -> Iterator[T]:
    """The same values, each made by a thread while the one before is in use."""
    source = iter(values)
    end = object()
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, source, end)
        while (value := coming.result()) is not end:
            coming = pool.submit(next, source, end)
            yield value  # type: ignore[misc]
