"""Items of a benchmark on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanochat.hub.split_rows import hub_rows
from nanochat.paths import Paths
from nanochat.tasks.on_demand import OnDemand
from nanochat.tasks.task import Item, ItemSplit


@dataclass(frozen=True)
class HubItems:
    """`Task.items` of a dataset: `splits` maps our splits to the hub's, `make` turns a row into an item."""

    repo: str
    config: str
    splits: Mapping[ItemSplit, str]
    columns: tuple[str, ...]
    make: Callable[[dict[str, Any]], Item]

    def __call__(self, paths: Paths, split: ItemSplit, seed: int) -> Sequence[Item]:
        """The items of a split. Raises ValueError if the dataset lacks it."""
        if split not in self.splits:
            raise ValueError(
                f"{self.repo} has no split {split!r}, only {', '.join(self.splits)}: choose another task"
            )
        rows = hub_rows(self.repo, self.config, self.splits[split], paths, self.columns)
        return OnDemand(rows, self.make)
