"""The embedded dataset as shards on disk, made on first use."""

from __future__ import annotations

import shutil
import tempfile
from itertools import chain
from pathlib import Path

from nanochat import builtin
from nanochat.atomic import file_lock, write_fault
from nanochat.console import say
from nanochat.paths import Paths
from nanochat.text.shards import chunked, shard_name, write_shard

_SHARD_CHARS = 4_000_000
_STAMP = "content_version"  # the file with the version of the text in the shards


def builtin_name(options: str) -> str:
    """The name of the dataset with these options. Raises ValueError for an unknown size or seed."""
    size, seed = _size_and_seed(options)
    return f"builtin-{size}-s{seed}"


def _size_and_seed(options: str) -> tuple[str, int]:
    size, _, seed = options.partition(":")
    size, seed = size or next(iter(builtin.SIZES)), seed or "0"
    if size not in builtin.SIZES or not seed.isdecimal():
        raise ValueError(f"unknown dataset 'builtin:{options}': use builtin:{'|'.join(builtin.SIZES)}[:SEED]")
    return size, int(seed)


def builtin_shards(options: str, paths: Paths) -> tuple[str, list[Path]]:
    """Name and shards, the last for validation, made if missing. `options`: "", "medium", "medium:7" (size and seed).

    Raises ValueError for an unknown size or seed.
    """
    size, seed = _size_and_seed(options)
    name = builtin_name(options)
    folder = paths.data(name)
    with file_lock(folder.with_name(f".{name}.lock"), message=f"another process is making {name}; waiting"):
        stamp = folder / _STAMP
        if not stamp.is_file() or stamp.read_text() != str(builtin.CONTENT_VERSION):
            _make(folder, size, seed)
    return name, sorted(folder.glob("shard_*.parquet"))


def _make(folder: Path, size: str, seed: int) -> None:
    """Write training shards, then the validation shard, into a folder that appears only when complete."""
    say(f"making the dataset {folder.name}")
    for stale in (
        folder,
        *folder.parent.glob(f".{folder.name}.*/"),
    ):  # another content version, or left by a killed run
        shutil.rmtree(stale, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        shards = chain(
            chunked(builtin.documents(size, seed), _SHARD_CHARS), [builtin.val_documents(size, seed)]
        )
        for index, shard in enumerate(shards):
            write_shard(staging / shard_name(index), shard)
        (staging / _STAMP).write_text(str(builtin.CONTENT_VERSION))
        staging.chmod(0o755)
        staging.rename(folder)
    except OSError as error:
        raise write_fault(folder, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
