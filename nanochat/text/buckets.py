"""Bucket files: the intermediate files of an external shuffle in two passes.

A file is a sequence of documents, each preceded by its length in bytes (little-endian).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nanochat.errors import EnvironmentFault

BUCKET_BYTES = 64 << 20  # target size of a bucket in memory, where it is shuffled
MOST_BUCKETS = 192  # files open at once; some systems allow 256
_TOLERANCE = (
    1.5  # bucket sizes vary by chance; above this multiple of BUCKET_BYTES a bucket is scattered again
)
_BUFFER_BYTES = 128 << 10
_LENGTH_BYTES = 8
_OBJECT_BYTES = 64  # approximate overhead of a Python bytes object
_DRAWS = 1 << 16


@dataclass(frozen=True)
class Bucket:
    """What a bucket file holds: the number of documents and the bytes of their text."""

    documents: int
    bytes: int

    @property
    def file_bytes(self) -> int:
        """Size of the file."""
        return self.bytes + _LENGTH_BYTES * self.documents

    @property
    def memory_bytes(self) -> int:
        """Approximate size of the documents in memory."""
        return self.bytes + _OBJECT_BYTES * self.documents


def write_buckets(paths: Sequence[Path], placed: Iterable[tuple[int, bytes]]) -> list[Bucket]:
    """Write each (index, document) pair of `placed` to `paths[index]`. Returns one Bucket per file."""
    documents, sizes = [0] * len(paths), [0] * len(paths)
    with ExitStack() as stack:
        files = [stack.enter_context(open(path, "wb", buffering=_BUFFER_BYTES)) for path in paths]
        for index, text in placed:
            files[index].write(len(text).to_bytes(_LENGTH_BYTES, "little") + text)
            documents[index] += 1
            sizes[index] += len(text)
    return list(map(Bucket, documents, sizes))


def draws(seed: Sequence[int], buckets: int) -> Iterator[int]:
    """Endless random bucket indices."""
    rng = np.random.default_rng(seed)
    while True:
        yield from rng.integers(buckets, size=_DRAWS).tolist()


def shuffled(file: Path, bucket: Bucket, seed: list[int]) -> Iterator[bytes]:
    """The documents of a bucket, shuffled; a bucket too large for memory is scattered into smaller ones first.

    Raises EnvironmentFault if the file is damaged.
    """
    if bucket.memory_bytes > _TOLERANCE * BUCKET_BYTES and bucket.documents > 1:
        count = min(-(-bucket.memory_bytes // BUCKET_BYTES), MOST_BUCKETS)
        parts = [file.with_name(f"{file.name}.{part:03d}") for part in range(count)]
        buckets = write_buckets(parts, zip(draws(seed, count), _framed(file, bucket), strict=False))
        for number, (part, smaller) in enumerate(zip(parts, buckets, strict=True), start=1):
            yield from shuffled(part, smaller, [*seed, number])
            part.unlink()
        return
    documents = list(_framed(file, bucket))
    for place in np.random.default_rng(seed).permutation(len(documents)):
        yield documents[place]


def _framed(path: Path, bucket: Bucket) -> Iterator[bytes]:
    """The documents in a bucket's file, in order. Raises EnvironmentFault if they do not match `bucket`."""
    documents = size = 0
    with open(path, "rb") as file:
        while length := file.read(_LENGTH_BYTES):
            text = file.read(min(int.from_bytes(length, "little"), bucket.bytes))
            documents += 1
            size += len(text)
            yield text
    if Bucket(documents, size) != bucket:
        path.unlink()  # so that the next run scatters again
        raise EnvironmentFault(f"{path} is damaged and has been removed: run the same command again")
