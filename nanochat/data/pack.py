"""Any text into shuffled parquet shards, in bounded memory: an external shuffle in two passes.

Scatter: every document goes to a random one of so many bucket files that each fits in memory. Gather: each
bucket is read, shuffled, and written on into shards. Together that is a uniform shuffle. The last shard holds
the held-out share and is the validation split.

A manifest records the settings and, once the scatter is complete, the size of each bucket. A run that was
broken off scatters again if it had not finished that, and otherwise keeps the shards that are there. Equal
files, settings and seed give equal bytes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO

import numpy as np

from nanochat.atomic import file_lock, write_fault, write_text_atomic
from nanochat.config import from_json, to_json
from nanochat.data.datasets import held_out_fraction
from nanochat.data.readers import Counts, read_documents
from nanochat.data.shards import shard_name, text_bytes, write_shard
from nanochat.errors import EnvironmentFault

BUCKET_BYTES = 64 << 20  # of text: what the gather holds at once, about twice
_MOST_BUCKETS = 512  # open files
_BUFFER_BYTES = 128 << 10
_LENGTH_BYTES = 8
_DRAWS = 1 << 16
_TELL_BYTES = 1 << 20
_VAL_BUCKET = 0

OnProgress = Callable[[int], None]


@dataclass(frozen=True)
class PackSettings:
    """What decides the bytes of the shards, the text itself apart."""

    text_column: str
    shard_bytes: int  # of text, UTF-8; shards come out equal and at most about this large
    val_fraction: float  # of the documents; no more than one bucket's worth
    seed: int


@dataclass(frozen=True)
class Bucket:
    documents: int
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """The state of a pack, in `manifest.json` beside the shards."""

    settings: PackSettings
    source: str  # digest of the files' names, sizes and times
    counts: Counts
    buckets: tuple[Bucket, ...]  # the first is for validation

    @property
    def train_bytes(self) -> int:
        return sum(bucket.bytes for bucket in self.buckets[1:])

    @property
    def train_shards(self) -> int:
        return max(-(-self.train_bytes // self.settings.shard_bytes), 1)


def pack(
    files: Sequence[Path], out: Path, settings: PackSettings, on_progress: OnProgress = lambda done: None
) -> tuple[Manifest, list[Path]]:
    """Shuffle the documents of `files` into shards in the folder `out`; returns the manifest and the shards.

    `on_progress` hears bytes of text, each counted twice (scattered, gathered).

    Raises ValueError when `out` holds anything else, or when there is too little text for two splits;
    EnvironmentFault when the disk refuses.
    """
    begun = _manifest_file(out).exists()
    if out.is_dir() and not begun and any(not item.name.startswith(".") for item in out.iterdir()):
        raise ValueError(f"{out} holds other files: choose an empty or new folder for the shards")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with file_lock(out / ".lock", message=f"another process is packing into {out}; waiting"):
            manifest = _read_manifest(out, files, settings)
            if manifest is None:
                try:
                    manifest = _scatter(files, out, settings, on_progress)
                except BaseException:  # half a scatter is of no use
                    shutil.rmtree(_bucket_folder(out), ignore_errors=True)
                    raise
            shards = _gather(out, manifest, on_progress)
            shutil.rmtree(_bucket_folder(out), ignore_errors=True)
    except OSError as error:
        raise write_fault(out, error) from error
    return manifest, shards


def _read_manifest(out: Path, files: Sequence[Path], settings: PackSettings) -> Manifest | None:
    """The manifest of this same pack if its scatter is complete; ValueError for another's."""
    if not _manifest_file(out).exists():
        return None
    manifest = from_json(Manifest, json.loads(_manifest_file(out).read_text()))
    if manifest.settings != settings or manifest.source != _digest(files):
        raise ValueError(f"{out} holds shards of other text or settings: choose another folder, or remove it")
    return manifest


def _digest(files: Sequence[Path]) -> str:
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()


def _manifest_file(out: Path) -> Path:
    return out / "manifest.json"


def _bucket_folder(out: Path) -> Path:
    return out / ".buckets"


def _bucket_file(out: Path, index: int) -> Path:
    return _bucket_folder(out) / f"{index:04d}"


def _scatter(files: Sequence[Path], out: Path, settings: PackSettings, on_progress: OnProgress) -> Manifest:
    """Every document into a bucket; the manifest, written last, makes it count."""
    total = sum(map(text_bytes, files))
    if shutil.disk_usage(out).free < 1.6 * total:  # the buckets, and the shards at 2:1 or better
        raise EnvironmentFault(f"{out}: the disk is too full to pack {total / 1e9:.1f} GB of text")
    shutil.rmtree(_bucket_folder(out), ignore_errors=True)  # of a run that was killed
    _bucket_folder(out).mkdir()
    train_buckets = min(-(-total // BUCKET_BYTES), _MOST_BUCKETS - 1) or 1
    held_out = min(settings.val_fraction, BUCKET_BYTES / max(total, 1))
    sizes = [[0, 0] for _ in range(1 + train_buckets)]  # documents, bytes
    done = 0
    counts = Counts()
    draws = _draws(settings.seed, train_buckets)
    with ExitStack() as stack:
        buckets = [
            stack.enter_context(open(_bucket_file(out, index), "wb", buffering=_BUFFER_BYTES))
            for index in range(len(sizes))
        ]
        for path in files:
            for document in read_documents(path, settings.text_column, counts):
                chosen = _VAL_BUCKET if held_out_fraction(document) < held_out else next(draws)
                text = document.encode()
                buckets[chosen].write(len(text).to_bytes(_LENGTH_BYTES, "little") + text)
                sizes[chosen][0] += 1
                sizes[chosen][1] += len(text)
                if (done + len(text)) // _TELL_BYTES > done // _TELL_BYTES:
                    on_progress(done)
                done += len(text)
    if not sizes[_VAL_BUCKET][0] or sizes[_VAL_BUCKET][0] == counts.documents:
        raise ValueError(
            f"{counts.documents} documents are too few for a held-out share of {held_out:.2%}: "
            "give more text or a larger --val-fraction"
        )
    manifest = Manifest(settings, _digest(files), counts, tuple(Bucket(*size) for size in sizes))
    write_text_atomic(_manifest_file(out), json.dumps(to_json(manifest), indent=1) + "\n")
    return manifest


def _draws(seed: int, train_buckets: int) -> Iterator[int]:
    """Endless random training buckets."""
    rng = np.random.default_rng([seed])
    while True:
        yield from rng.integers(1, train_buckets, size=_DRAWS, endpoint=True).tolist()


def _gather(out: Path, manifest: Manifest, on_progress: OnProgress) -> list[Path]:
    """Write the shards that are not there; returns all, validation last."""
    shards = [out / shard_name(index) for index in range(manifest.train_shards + 1)]
    done = next((index for index, shard in enumerate(shards) if not shard.exists()), len(shards))
    for index, stream in groupby(_train_stream(out, manifest, done, on_progress), key=itemgetter(0)):
        write_shard(shards[index], (text for _, text in stream))
    for shard in shards[:-1]:
        if not shard.exists():  # its share of the bytes lies within one huge document
            write_shard(shard, [])
    if not shards[-1].exists():
        write_shard(shards[-1], _shuffled(out, manifest, _VAL_BUCKET))
    return shards


def _train_stream(
    out: Path, manifest: Manifest, done: int, on_progress: OnProgress
) -> Iterator[tuple[int, bytes]]:
    """(shard, document) of all shards from `done` on: shard i begins with the i-th equal share of the bytes."""
    total, shards = manifest.train_bytes, manifest.train_shards
    position = 0
    for index, bucket in enumerate(manifest.buckets):
        if index == _VAL_BUCKET:
            continue
        if bucket.bytes and (position + bucket.bytes - 1) * shards // total >= done:
            here = position
            for text in _shuffled(out, manifest, index):
                shard = here * shards // total
                here += len(text)
                if shard >= done:
                    yield shard, text
        position += bucket.bytes
        on_progress(total + position)


def _shuffled(out: Path, manifest: Manifest, index: int) -> list[bytes]:
    """The documents of a bucket in their final order."""
    with open(_bucket_file(out, index), "rb") as file:
        documents = list(_framed(file))
    order = np.random.default_rng([manifest.settings.seed, index]).permutation(len(documents))
    return [documents[place] for place in order]


def _framed(file: BinaryIO) -> Iterator[bytes]:
    while length := file.read(_LENGTH_BYTES):
        yield file.read(int.from_bytes(length, "little"))
