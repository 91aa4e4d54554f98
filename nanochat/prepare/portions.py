"""Portions of the source that are read and written as one task, by any process that sees the same files.

A document's key is its file's number and its own number in that file: sorted keys are the order of input.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from nanochat.config import to_json
from nanochat.errors import EnvironmentFault
from nanochat.prepare.components import Keys
from nanochat.text.readers import Counts, read_documents
from nanochat.text.shards import text_bytes, write_shard

_PORTION_BYTES = 64 << 20
_PORTIONS = 64  # at least about that many, if there are as many files
_BATCH_CHARACTERS = 2 << 20  # of the documents that are in memory together, per task
_DOCUMENT_BITS = 40

READ = pa.schema([("key", pa.int64()), ("text", pa.large_string()), ("fault", pa.string())])
_NUMBERS = ("portion", "kept", "kept_bytes")
WRITTEN = pa.schema(
    [*((name, pa.int64()) for name in _NUMBERS), ("counts", pa.string()), ("fault", pa.string())]
)
"""Rows of both tasks; the last row of a task that failed has a `fault`, a message of one line."""


@dataclass(frozen=True)
class Portion:
    """Consecutive files of the source; `first` is the number of the first file, `number` of the portion."""

    number: int
    first: int
    files: tuple[Path, ...]

    def bytes(self, column: str) -> int:
        """Approximate bytes of text."""
        return sum(text_bytes(file, column) for file in self.files)

    def documents(self, column: str, counts: Counts) -> Iterator[tuple[int, str]]:
        """(key, text) of every document in order."""
        for index, file in enumerate(self.files, start=self.first):
            for number, text in enumerate(read_documents(file, column, counts)):
                yield (index << _DOCUMENT_BITS) + number, text

    def keys(self, keys: Keys) -> Keys:
        """Those of sorted `keys` that belong to this portion."""
        ends = [self.first << _DOCUMENT_BITS, (self.first + len(self.files)) << _DOCUMENT_BITS]
        return keys[slice(*np.searchsorted(keys, ends))]


def divide(files: Sequence[Path], column: str) -> list[Portion]:
    """`files` as portions of about equal size, enough for many processes; a larger file is a portion of its own."""
    sizes = [text_bytes(file, column) for file in files]
    most = min(_PORTION_BYTES, sum(sizes) // _PORTIONS)
    groups: list[list[Path]] = []
    held = 0
    for file, size in zip(files, sizes, strict=True):
        if not groups or held + size > most:
            groups.append([])
            held = 0
        groups[-1].append(file)
        held += size
    firsts = np.cumsum([0, *map(len, groups)]).tolist()
    return [Portion(number, firsts[number], tuple(group)) for number, group in enumerate(groups)]


def read_portion(portion: Portion, column: str) -> Iterator[pa.RecordBatch]:
    """The documents of a portion as batches of READ."""
    keys: list[int] = []
    texts: list[str] = []
    held = 0
    try:
        for key, text in portion.documents(column, Counts()):
            keys.append(key)
            texts.append(text)
            held += len(text)
            if held >= _BATCH_CHARACTERS:
                yield _read_batch(keys, texts)
                keys, texts, held = [], [], 0
        if keys:
            yield _read_batch(keys, texts)
    except (ValueError, EnvironmentFault) as error:
        yield pa.RecordBatch.from_pylist([{"key": -1, "text": "", "fault": str(error)}], schema=READ)


def _read_batch(keys: list[int], texts: list[str]) -> pa.RecordBatch:
    columns = [
        pa.array(keys, pa.int64()),
        pa.array(texts, pa.large_string()),
        pa.nulls(len(keys), pa.string()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=READ)


def write_portion(portion: Portion, column: str, dropped: Path, kept: Path) -> Iterator[pa.RecordBatch]:
    """Write the documents whose keys the array in `dropped` lacks to the shard `kept`; one row of WRITTEN."""
    counts, fault, kept_bytes, rows = Counts(), None, 0, 0
    remaining = iter(np.load(dropped).tolist())

    def staying() -> Iterator[bytes]:
        nonlocal kept_bytes
        drop = next(remaining, None)
        for key, text in portion.documents(column, counts):
            if key == drop:
                drop = next(remaining, None)
                continue
            encoded = text.encode()
            kept_bytes += len(encoded)
            yield encoded

    try:
        rows = write_shard(kept, staying())
    except (ValueError, EnvironmentFault) as error:
        fault = str(error)
    row = {"portion": portion.number, "counts": json.dumps(to_json(counts)), "fault": fault}
    yield pa.RecordBatch.from_pylist([row | {"kept": rows, "kept_bytes": kept_bytes}], schema=WRITTEN)
