"""Rows of unlike length, gathered into right-padded batches under a cap of tokens."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

BATCH_TOKENS = {"cuda": 65_536, "mps": 8_192, "cpu": 8_192}
"""Tokens in one forward by kind of device, where nothing else is asked for."""


def length_batches(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Indices of rows in batches of rows x longest <= `max_tokens`; one row where even that is too much.

    Longest first: little padding, and a batch that does not fit into memory fails at once, not at the end.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        rows = max(1, max_tokens // max(1, lengths[order[start]]))
        yield order[start : start + rows]
        start += rows


def pad_right(rows: Sequence[Sequence[int]], fill: int, device: torch.device) -> Tensor:
    """int64 (B, T) with each row at the left and `fill` after it. Causal attention never looks at the padding."""
    longest = max(len(row) for row in rows)
    padded = [[*row, *([fill] * (longest - len(row)))] for row in rows]
    return torch.tensor(padded, dtype=torch.int64, device=device)
