"""Datasets by name or path, each with a training and a validation split.

Validation is, in this order: what `--val-path` names; the last parquet or jsonl file where there are several;
otherwise a held-out share of the documents, chosen by a hash of their text, so that it is the same on every
machine and equal documents fall on the same side.
"""

from __future__ import annotations

import glob
import hashlib
import math
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from nanochat.console import say
from nanochat.hub.batch import LOCK_NAME
from nanochat.paths import Paths
from nanochat.text.builtin_dataset import builtin_shards
from nanochat.text.readers import (
    FORMATS,
    TEXT_COLUMN,
    TEXT_FORMATS,
    Counts,
    check_columns,
    format_of,
    read_documents,
)
from nanochat.text.shards import shard_name, text_bytes

Split = Literal["train", "val"]


@dataclass(frozen=True)
class HubDataset:
    """A dataset on the Hugging Face hub: `shards` files `shard_00000.parquet` …, the last for validation."""

    repo: str
    shards: int

    @property
    def val_index(self) -> int:
        return self.shards - 1


HUB_DATASETS = {
    "fineweb-edu": HubDataset("karpathy/fineweb-edu-100b-shuffle", 1823),
    "climbmix": HubDataset("karpathy/climbmix-400b-shuffle", 6543),
}
VAL_FRACTION = 0.05
_POLL_S = 1.0
_PATIENCE_S = 30.0  # without one new byte, before asking whether anybody is downloading
_SMALL_SOURCE_BYTES = 32 << 20  # up to here a share that holds no document is made to hold one


@dataclass(frozen=True)
class Dataset:
    """Files in order. With `held_out` > 0 both splits read the same files: documents whose hash (as a
    fraction of its range) lies below it are validation, the others training."""

    name: str
    train: tuple[Path, ...]
    val: tuple[Path, ...]
    text_column: str = TEXT_COLUMN
    held_out: float = 0.0

    def files(self, split: Split) -> tuple[Path, ...]:
        return self.train if split == "train" else self.val

    @property
    def validation(self) -> str:
        """What the validation split is, for people."""
        if self.held_out:
            return f"{self.held_out:.2%} of the documents, by hash of the text"
        return ", ".join(path.name for path in self.val[:3]) + (", …" if len(self.val) > 3 else "")


@dataclass(frozen=True)
class TextSource:
    """Flags of every stage that reads text: which, and what of it is held out for validation."""

    dataset: str = "builtin"
    """builtin[:small|medium|large[:SEED]], fineweb-edu, climbmix, or a file, folder or pattern."""
    text_column: str = TEXT_COLUMN
    """The parquet column or jsonl field that holds the text."""
    val_path: str | None = None
    """Validation text; default: the last parquet or jsonl file, or a held-out share of the documents."""
    val_fraction: float = VAL_FRACTION
    """The held-out share of the documents, where there is one."""
    need_shards: int | None = None
    """Training shards of a hub dataset to use, waited for while they arrive; default: what is there."""

    def open(self, paths: Paths) -> Dataset:
        """The dataset; raises as `open_dataset` does."""
        return open_dataset(
            self.dataset,
            paths,
            text_column=self.text_column,
            val_path=self.val_path,
            val_fraction=self.val_fraction,
            need_shards=self.need_shards,
        )


def open_dataset(
    spec: str,
    paths: Paths,
    *,
    text_column: str = TEXT_COLUMN,
    val_path: str | None = None,
    val_fraction: float = VAL_FRACTION,
    need_shards: int | None = None,
) -> Dataset:
    """The dataset that `spec` names: "builtin[:small|medium|large[:SEED]]" (made on first use), "fineweb-edu",
    "climbmix" (what has been downloaded, up to the first gap), or a file, a folder or a glob of parquet, jsonl,
    txt or md.

    A folder is searched below too, and gives its parquet files, or if it has none its jsonl files, or else
    its text files. `need_shards`: take exactly that many training shards of a hub dataset, and while they are
    arriving wait for them.

    Raises ValueError (with what to do) for an unknown name, an empty folder, a missing column, or too few
    documents to hold some out.
    """
    kind, _, options = spec.partition(":")
    if kind == "builtin":
        name, (*train, val) = builtin_shards(options, paths)
        dataset = Dataset(name, tuple(train), (val,))
    elif spec in HUB_DATASETS:
        dataset = _open_hub(spec, paths, need_shards)
    else:
        dataset = _open_files(spec, text_column, val_path, val_fraction)
    if val_path is not None:
        dataset = Dataset(dataset.name, dataset.train, tuple(find_files(val_path)), text_column)
    check_columns({*dataset.train, *dataset.val}, text_column)
    return dataset


def documents(dataset: Dataset, split: Split) -> Iterator[str]:
    """Every document of a split, in order. Raises ValueError when there is none."""
    found = False
    for path in dataset.files(split):
        for document in split_documents(dataset, path, split):
            found = True
            yield document
    if not found:
        raise ValueError(_too_few(dataset.name, split))


def split_documents(
    dataset: Dataset, path: Path, split: Split, counts: Counts | None = None
) -> Iterator[str]:
    """The documents of one of the dataset's files that belong to `split`, in order.

    `counts` gets the documents and characters of the split; what was mended or dropped, of the whole file.
    """
    counts = Counts() if counts is None else counts
    for document in read_documents(path, dataset.text_column, counts):
        if not dataset.held_out or (held_out_fraction(document) < dataset.held_out) == (split == "val"):
            yield document
        else:
            counts.documents -= 1
            counts.characters -= len(document)


def split_bytes(dataset: Dataset, split: Split, files: Sequence[Path] | None = None) -> float:
    """About how much text a split holds (in some of its files), in UTF-8."""
    share = dataset.held_out if split == "val" else 1 - dataset.held_out
    whole = sum(map(text_bytes, dataset.files(split) if files is None else files))
    return whole * (share if dataset.held_out else 1)


def held_out_fraction(document: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.blake2b(document.encode(), digest_size=6).digest(), "little") / 2**48


def _too_few(name: str, split: str) -> str:
    return f"{name} has no document for {split}: give more text, another --val-fraction, or --val-path"


# ---- hub


def _open_hub(name: str, paths: Paths, need_shards: int | None) -> Dataset:
    hub, folder = HUB_DATASETS[name], paths.data(name)
    if need_shards is not None and not 1 <= need_shards <= hub.val_index:
        raise ValueError(
            f"{name} has {hub.val_index} training shards: --need-shards {need_shards} cannot be met"
        )
    val = folder / shard_name(hub.val_index)
    shards = _unbroken(folder) if need_shards is None else need_shards
    if not shards or (need_shards is None and not val.exists()):
        raise ValueError(
            f"{name} is not here: fetch some of it with `nanochat data download --dataset {name}`"
        )
    train = [folder / shard_name(index) for index in range(shards)]
    _wait_for(name, folder, [*train, val])
    return Dataset(name, tuple(train), (val,))


def _unbroken(folder: Path) -> int:
    """How many shards are here from the first on without a gap: as more arrive, in whatever order, a run
    that began with these finds them again as the first ones."""
    return next(index for index in count() if not (folder / shard_name(index)).exists())


def _wait_for(name: str, folder: Path, wanted: list[Path]) -> None:
    """Until all of `wanted` are here; ValueError when they are not and nobody is bringing them."""
    held, since, said = -1, time.monotonic(), -1
    while missing := [path for path in wanted if not path.exists()]:
        arrived = _bytes_in(folder)
        if arrived != held:
            held, since = arrived, time.monotonic()
        if time.monotonic() - since > _PATIENCE_S and not _is_locked(folder / LOCK_NAME):
            raise ValueError(
                f"{len(missing)} of {len(wanted)} shards of {name} are missing and none is arriving: "
                f"fetch them with `nanochat data download --dataset {name} -n {len(wanted) - 1}`"
            )
        if len(missing) != said:
            said = len(missing)
            say(f"waiting for {name}: {len(wanted) - said} of {len(wanted)} shards are here")
        time.sleep(_POLL_S)


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.glob("*"):
        with suppress(FileNotFoundError):  # a partial file that has just become a whole one
            total += path.stat().st_size
    return total


def _is_locked(path: Path) -> bool:
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


# ---- the user's own files


def _open_files(spec: str, text_column: str, val_path: str | None, val_fraction: float) -> Dataset:
    files = find_files(spec)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", _stem(spec)).strip("-._") or "data"
    if val_path is not None:
        return Dataset(name, tuple(files), (), text_column)
    if len(files) > 1 and {format_of(path) for path in files} <= {".parquet", ".jsonl"}:
        return Dataset(name, tuple(files[:-1]), (files[-1],), text_column)
    if not 0 < val_fraction < 1:
        raise ValueError(f"the held-out share must lie between 0 and 1, got {val_fraction}")
    return _hold_out(Dataset(name, tuple(files), tuple(files), text_column), val_fraction)


def _hold_out(dataset: Dataset, share: float) -> Dataset:
    """`dataset` with a held-out share that is not empty: in a small source, at least one document."""
    if sum(path.stat().st_size for path in dataset.train) <= _SMALL_SOURCE_BYTES:
        fractions = sorted(map(held_out_fraction, documents(dataset, "train")))
        share = max(share, math.nextafter(fractions[0], 1))
        if share > fractions[-1]:
            raise ValueError(_too_few(dataset.name, "train"))
    return Dataset(dataset.name, dataset.train, dataset.val, dataset.text_column, held_out=share)


def _stem(spec: str) -> str:
    """The last part of a path that is no pattern, without its endings."""
    parts = [part for part in Path(spec).absolute().parts if not glob.has_magic(part)]
    return parts[-1].split(".")[0]


def find_files(spec: str) -> list[Path]:
    """The files that a path or pattern names, in order. Raises ValueError when there is none."""
    path = Path(spec).expanduser()
    if path.is_file():
        if format_of(path) is None:
            raise ValueError(
                f"{path}: unknown format; use {', '.join(FORMATS)} (the text ones also as .gz or .zst)"
            )
        return [path]
    if path.is_dir():
        found = _preferred(
            sorted(file for file in path.rglob("*") if file.is_file() and _is_visible(file, path))
        )
        where = f"the folder {path}"
    elif glob.has_magic(spec):
        found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True)) if format_of(Path(name))]
        where = f"the pattern {spec}"
    else:
        names = ", ".join(["builtin", *HUB_DATASETS])
        raise ValueError(f"unknown dataset {spec!r}: no such file or folder, and none of {names}")
    if not found:
        raise ValueError(f"{where} gives no {', '.join(FORMATS)} file: nothing to read")
    return found


def _is_visible(file: Path, folder: Path) -> bool:
    return not any(part.startswith(".") for part in file.relative_to(folder).parts)


def _preferred(files: list[Path]) -> list[Path]:
    """Only parquet, or only jsonl, or all text: a README beside the shards is no training text."""
    for formats in ((".parquet",), (".jsonl",), TEXT_FORMATS):
        if chosen := [file for file in files if format_of(file) in formats]:
            return chosen
    return []
