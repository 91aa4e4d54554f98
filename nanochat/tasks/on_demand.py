"""Sequences that make items on access, so that a large set takes only the memory of its keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

K = TypeVar("K")
T = TypeVar("T")


class OnDemand(Sequence[T], Generic[K, T]):
    """Item i is `make(keys[i])`."""

    def __init__(self, keys: Sequence[K], make: Callable[[K], T]):
        self._keys = keys
        self._make = make

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return OnDemand(self._keys[index], self._make)
        return self._make(self._keys[index])

    def __iter__(self) -> Iterator[T]:
        return map(self._make, self._keys)
