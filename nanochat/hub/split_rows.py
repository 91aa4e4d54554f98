"""The rows of a dataset's split on the hub, held as an Arrow table and read one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat.hub.fetch import hub_parquet_files
from nanochat.paths import Paths


class HubRows(Sequence[dict[str, Any]]):
    """Rows as dicts, made when they are asked for: the table is many times smaller."""

    def __init__(self, table: pa.Table):
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            rows = range(*index.indices(len(self)))
            return HubRows(self._table.take(list(rows)))
        return self._table.slice(range(len(self))[index], 1).to_pylist()[0]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self._table.to_batches():
            yield from batch.to_pylist()


def hub_rows(repo: str, config: str, split: str, paths: Paths, columns: Sequence[str]) -> HubRows:
    """The split's rows, downloaded if they are not there. Raises EnvironmentFault if they cannot be."""
    files = hub_parquet_files(repo, config, split, paths)
    return HubRows(pa.concat_tables([pq.read_table(file, columns=list(columns)) for file in files]))
