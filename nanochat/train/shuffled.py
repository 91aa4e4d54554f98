"""The order of training items of runs that draw them one by one: reinforcement and preferences."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Self, TypeVar

import numpy as np

from nanochat.batches.position import DataIdentity, DataPosition, RowPosition

T = TypeVar("T")


@dataclass
class Shuffled(Generic[T]):
    """The endless order of training items: every pass is shuffled by the seed and its number."""

    items: Sequence[T]
    seed: int
    taken: int = 0
    _order: tuple[int, np.ndarray] = field(default=(-1, np.empty(0)))

    @classmethod
    def resumed(cls, items: Sequence[T], seed: int, position: DataPosition | None) -> Self:
        """The order from a position of `position_after` on; from its beginning without one."""
        return cls(items, seed, position.row.place[0] if position else 0)

    def __iter__(self) -> Iterator[tuple[int, int, T]]:
        return self

    def __next__(self) -> tuple[int, int, T]:
        """(place in the order, index of the item, the item)."""
        epoch, offset = divmod(self.taken, len(self.items))
        if self._order[0] != epoch:
            order = np.random.default_rng((self.seed, epoch)).permutation(len(self.items))
            self._order = (epoch, order)
        index = int(self._order[1][offset])
        self.taken += 1
        return self.taken - 1, index, self.items[index]

    def position_after(self, before: DataPosition | None, identity: DataIdentity, rows: int) -> DataPosition:
        """Where a run resumes after a step that learned from `rows` items. More may have been taken for it."""
        counted = (before.row.rows if before else 0) + rows
        return DataPosition(identity, RowPosition((self.taken,), rows=counted))
