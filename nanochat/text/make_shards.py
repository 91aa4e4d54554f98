"""Pack any text into shuffled parquet shards, in bounded memory: an external shuffle in two passes.

Scatter: every document goes to a random bucket file; there are enough buckets for each to fit in memory. Gather:
each bucket is read, shuffled and appended to the shards; a bucket that grew too large is scattered again. Together
this is a uniform shuffle. The last shard holds the held-out share and is the validation split.

All files are made in a hidden folder, which no dataset sees, and moved out at the end. A manifest records the
settings and, once the scatter is complete, the size of each bucket. A rerun after an interruption repeats the
scatter if that was incomplete or its buckets are damaged, and otherwise keeps the finished shards. Equal files,
settings and seed give equal bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from nanochat.atomic import file_lock, sync_directory, write_fault, write_text_atomic
from nanochat.config import from_json, parse_json, to_json
from nanochat.errors import EnvironmentFault
from nanochat.text.buckets import BUCKET_BYTES, MOST_BUCKETS, Bucket, draws, shuffled, write_buckets
from nanochat.text.datasets import held_out_fraction
from nanochat.text.readers import Counts, read_documents
from nanochat.text.shards import shard_name, text_bytes, write_shard

_PROGRESS_BYTES = 1 << 20
_VAL_BUCKET = 0
_MOST_SHARDS = 100_000  # beyond this, names would not sort in order

OnProgress = Callable[[int], None]


@dataclass(frozen=True)
class PackSettings:
    """What decides the bytes of the shards, besides the text."""

    text_column: str
    shard_bytes: int  # UTF-8 text per shard, an approximate maximum; all shards are about equally large
    val_fraction: float  # of the documents; at least one document and at most about one bucket
    seed: int


@dataclass(frozen=True)
class Manifest:
    """The state of a pack, in `manifest.json` beside the shards."""

    settings: PackSettings
    source: str  # digest of the files' names, sizes and times
    counts: Counts
    buckets: tuple[Bucket, ...]  # the first is for validation

    @property
    def train_bytes(self) -> int:
        """Bytes of training text."""
        return sum(bucket.bytes for bucket in self.buckets[1:])

    @property
    def train_shards(self) -> int:
        """Number of training shards."""
        return max(-(-self.train_bytes // self.settings.shard_bytes), 1)

    @property
    def shard_names(self) -> list[str]:
        """File names of all shards; the last is for validation."""
        return [shard_name(index) for index in range(self.train_shards + 1)]


def pack(
    files: Sequence[Path], out: Path, settings: PackSettings, on_progress: OnProgress = lambda done: None
) -> tuple[Manifest, list[Path]]:
    """Shuffle the documents of `files` into shards in the folder `out`; returns the manifest and the shards.

    `on_progress` receives the bytes of text done so far, each counted twice (scattered, gathered).

    Raises ValueError if `out` holds other files or there is too little text for two splits; EnvironmentFault if
    the disk is full or not writable.
    """
    try:
        begun = _manifest_file(out).exists()
        if out.is_dir() and not begun and any(not item.name.startswith(".") for item in out.iterdir()):
            raise ValueError(f"{out} holds other files: choose an empty or new folder for the shards")
        out.mkdir(parents=True, exist_ok=True)
        with file_lock(out / ".lock", message=f"another process is packing into {out}; waiting"):
            manifest = _read_manifest(out, files, settings)
            if manifest is None or not _is_finished(out, manifest):
                if manifest is None or not _is_scattered(out, manifest):
                    manifest = _scatter_anew(files, out, settings, on_progress)
                _gather(out, manifest, on_progress)
                _publish(out, manifest)
            shutil.rmtree(_work_folder(out), ignore_errors=True)
    except OSError as error:
        raise write_fault(out, error) from error
    return manifest, [out / name for name in manifest.shard_names]


def _read_manifest(out: Path, files: Sequence[Path], settings: PackSettings) -> Manifest | None:
    """The manifest of this pack, or None if there is none. Raises ValueError for the manifest of another pack."""
    try:
        manifest = from_json(Manifest, parse_json(_manifest_file(out).read_text()))
    except FileNotFoundError:
        return None
    except ValueError:
        manifest = None
    if manifest is None or manifest.settings != settings or manifest.source != source_digest(files):
        raise ValueError(f"{out} holds shards of other text or settings: choose another folder, or remove it")
    return manifest


def _is_finished(out: Path, manifest: Manifest) -> bool:
    return all((out / name).exists() for name in manifest.shard_names)


def _is_scattered(out: Path, manifest: Manifest) -> bool:
    """Whether all buckets exist with their full size."""
    try:
        return all(
            _bucket_file(out, index).stat().st_size == bucket.file_bytes
            for index, bucket in enumerate(manifest.buckets)
        )
    except FileNotFoundError:
        return False


def source_digest(files: Sequence[Path]) -> str:
    """Digest of the files' names, sizes and times."""
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()


def _manifest_file(out: Path) -> Path:
    return out / "manifest.json"


def _work_folder(out: Path) -> Path:
    """The hidden folder for buckets and unfinished shards."""
    return out / ".pack"


def _bucket_file(out: Path, index: int) -> Path:
    return _work_folder(out) / f"{index:04d}"


# ---- scatter


def _scatter_anew(
    files: Sequence[Path], out: Path, settings: PackSettings, on_progress: OnProgress
) -> Manifest:
    """Scatter every document into a bucket. The manifest is written last and commits the scatter."""
    total = sum(text_bytes(path, settings.text_column) for path in files)
    if total // settings.shard_bytes >= _MOST_SHARDS:
        raise ValueError(
            f"{total / 1e9:.1f} GB of text would make too many shards: choose a larger --shard-mb"
        )
    if shutil.disk_usage(out).free < 1.6 * total:  # the buckets, and the shards compressed at 2:1 or better
        raise EnvironmentFault(f"{out}: the disk is too full to pack {total / 1e9:.1f} GB of text")
    shutil.rmtree(_work_folder(out), ignore_errors=True)  # left by a killed run
    for shard in out.glob("shard_*.parquet"):  # left of an incomplete pack
        shard.unlink()
    _manifest_file(out).unlink(missing_ok=True)
    _work_folder(out).mkdir()
    source = source_digest(files)
    share = min(settings.val_fraction, BUCKET_BYTES / max(total, 1))
    train_buckets = min(-(-total // BUCKET_BYTES), MOST_BUCKETS - 1) or 1
    try:
        counts, buckets = _scatter(files, out, settings, share, train_buckets, on_progress)
        if buckets[_VAL_BUCKET].documents in (0, counts.documents):
            share = _parting_share(files, settings.text_column, share)
            counts, buckets = _scatter(files, out, settings, share, train_buckets, on_progress)
    except BaseException:  # an incomplete scatter is useless
        shutil.rmtree(_work_folder(out), ignore_errors=True)
        raise
    manifest = Manifest(settings, source, counts, tuple(buckets))
    write_text_atomic(_manifest_file(out), json.dumps(to_json(manifest), indent=1) + "\n")
    return manifest


def _scatter(
    files: Sequence[Path],
    out: Path,
    settings: PackSettings,
    share: float,
    train_buckets: int,
    on_progress: OnProgress,
) -> tuple[Counts, list[Bucket]]:
    """Scatter every document; those whose hash lies below `share` go to the validation bucket."""
    counts = Counts()
    drawn = draws([settings.seed], train_buckets)

    def placed() -> Iterator[tuple[int, bytes]]:
        done = 0
        for path in files:
            for document in read_documents(path, settings.text_column, counts):
                text = document.encode()
                yield _VAL_BUCKET if held_out_fraction(document) < share else 1 + next(drawn), text
                if (done + len(text)) // _PROGRESS_BYTES > done // _PROGRESS_BYTES:
                    on_progress(done)
                done += len(text)

    bucket_files = [_bucket_file(out, index) for index in range(1 + train_buckets)]
    buckets = write_buckets(bucket_files, placed())
    for bucket_file in bucket_files:
        with open(bucket_file, "r+b") as file:
            os.fsync(file.fileno())
    sync_directory(_work_folder(out))
    return counts, buckets


def _parting_share(files: Sequence[Path], column: str, share: float) -> float:
    """The share nearest to `share` that leaves neither split empty. Raises ValueError if there is none."""
    counts, lowest, highest = Counts(), 1.0, 0.0
    for path in files:
        for fraction in map(held_out_fraction, read_documents(path, column, counts)):
            lowest, highest = min(lowest, fraction), max(highest, fraction)
    if not lowest < highest:
        raise ValueError(
            f"too few different documents to hold one out ({counts.documents:,} read): add more text"
        )
    return min(max(share, math.nextafter(lowest, 1)), highest)


# ---- gather


def _gather(out: Path, manifest: Manifest, on_progress: OnProgress) -> None:
    """Write the missing shards, in the work folder."""
    shards = [_work_folder(out) / name for name in manifest.shard_names]
    written = [shard.exists() for shard in shards]
    done = written.index(False) if False in written else len(written)
    for index, stream in groupby(_train_stream(out, manifest, done, on_progress), key=itemgetter(0)):
        write_shard(shards[index], (text for _, text in stream))
        written[index] = True
    for shard, is_written in zip(shards[:-1], written, strict=False):
        if not is_written:  # its share of the bytes lies within one huge document
            write_shard(shard, [])
    if not written[-1]:
        write_shard(shards[-1], _shuffled_bucket(out, manifest, _VAL_BUCKET))


def _publish(out: Path, manifest: Manifest) -> None:
    """Move the shards out, validation first, so that an interrupted move never leaves a training shard as the last."""
    for name in reversed(manifest.shard_names):
        if (_work_folder(out) / name).exists():
            os.replace(_work_folder(out) / name, out / name)
    sync_directory(out)


def _train_stream(
    out: Path, manifest: Manifest, done: int, on_progress: OnProgress
) -> Iterator[tuple[int, bytes]]:
    """(shard index, document) pairs from shard `done` on; shard i begins with the i-th equal share of the bytes."""
    total, shards = manifest.train_bytes, manifest.train_shards
    position = 0
    for index, bucket in enumerate(manifest.buckets):
        if index == _VAL_BUCKET:
            continue
        if bucket.bytes and (position + bucket.bytes - 1) * shards // total >= done:
            here = position
            for text in _shuffled_bucket(out, manifest, index):
                shard = here * shards // total
                here += len(text)
                if shard >= done:
                    yield shard, text
        position += bucket.bytes
        on_progress(total + position)


def _shuffled_bucket(out: Path, manifest: Manifest, index: int) -> Iterator[bytes]:
    seed = [manifest.settings.seed, 1 + index]  # numpy ignores a trailing 0 in a seed sequence
    return shuffled(_bucket_file(out, index), manifest.buckets[index], seed)
