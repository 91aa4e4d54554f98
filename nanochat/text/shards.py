"""Parquet shards: their names, atomic writing, and how much text a file holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat.atomic import write_atomic
from nanochat.text.readers import TEXT_COLUMN

ROW_GROUP = 256  # documents that a reader holds at once
_SCHEMA = pa.schema([("text", pa.string())])


def shard_name(index: int) -> str:
    """The file name of a dataset's shard, as the hub datasets name them."""
    return f"shard_{index:05d}.parquet"


def write_shard(path: Path, documents: Iterable[str | bytes]) -> int:
    """Atomically write documents (str or UTF-8 bytes) as one zstd parquet shard with the column `text`.

    Returns the number of documents. Equal documents give equal bytes under one version of pyarrow. Raises
    EnvironmentFault if the file cannot be written.
    """
    rows = 0

    def fill(file: BinaryIO) -> None:
        nonlocal rows
        remaining = iter(documents)
        with pq.ParquetWriter(file, _SCHEMA, compression="zstd", use_dictionary=False) as writer:
            while group := list(islice(remaining, ROW_GROUP)):
                writer.write_table(pa.table([pa.array(group, pa.string())], schema=_SCHEMA))
                rows += len(group)

    write_atomic(path, fill)
    return rows


def chunked(documents: Iterable[str], characters: int) -> Iterator[list[str]]:
    """Lists of consecutive documents; each list but the last holds at least `characters` characters."""
    batch: list[str] = []
    held = 0
    for document in documents:
        batch.append(document)
        held += len(document)
        if held >= characters:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def text_bytes(path: Path, column: str = TEXT_COLUMN) -> int:
    """Approximate UTF-8 bytes of text in a file, without reading it: of a parquet file, those of `column`.

    Compressed txt and jsonl are taken as 3:1.
    """
    if path.suffix.lower() == ".parquet":
        metadata = pq.read_metadata(path)
        columns = [i for i in range(metadata.num_columns) if metadata.schema.column(i).path == column]
        groups = map(metadata.row_group, range(metadata.num_row_groups))
        return sum(group.column(i).total_uncompressed_size for group in groups for i in columns)
    return path.stat().st_size * (3 if path.suffix.lower() in (".gz", ".zst") else 1)
