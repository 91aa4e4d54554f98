"""Datasets by name or path, each with a training and a validation split.

Without `--dataset` every stage reads `default_dataset`: the first of HUB_DATASETS that is downloaded, else
`builtin`.

The validation split is `--val-path` if given, whose files are not trained on; else the last parquet or jsonl file if
there are several; else a share of the documents held out by a hash of their text, the same on every machine and never
separating equal documents.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

from nanochat.bounds import require_positive
from nanochat.console import say
from nanochat.paths import Paths
from nanochat.text.arriving_shards import unbroken, wait_for
from nanochat.text.builtin_dataset import builtin_name, builtin_shards
from nanochat.text.own_files import absolute, find_files, names_files, short_name, unique_name
from nanochat.text.readers import TEXT_COLUMN, Counts, check_columns, format_of, read_documents
from nanochat.text.shards import shard_name, text_bytes

Split = Literal["train", "val"]


@dataclass(frozen=True)
class HubDataset:
    """A dataset on the Hugging Face hub: `shards` files `shard_00000.parquet` …, the last for validation."""

    repo: str
    shards: int

    @property
    def val_index(self) -> int:
        """The index of the validation shard."""
        return self.shards - 1


BUILTIN = "builtin"
HUB_DATASETS = {
    "fineweb-edu": HubDataset("karpathy/fineweb-edu-100b-shuffle", 1823),
    "climbmix": HubDataset("karpathy/climbmix-400b-shuffle", 6543),
}
VAL_FRACTION = 0.05
_MORE_DOCUMENTS = "give more text, another --val-fraction, or --val-path"
_SMALL_SOURCE_BYTES = 32 << 20  # a source up to this size holds out at least one document


@dataclass(frozen=True)
class Dataset:
    """A dataset's files, in order.

    With `held_out` > 0 both splits read the same files: documents whose hash, scaled to [0, 1), is below it are for
    validation, the others for training.
    """

    name: str
    train: tuple[Path, ...]
    val: tuple[Path, ...]
    text_column: str = TEXT_COLUMN
    held_out: float = 0.0

    def files(self, split: Split) -> tuple[Path, ...]:
        """The files of a split."""
        return self.train if split == "train" else self.val

    @property
    def validation(self) -> str:
        """A description of the validation split."""
        if self.held_out:
            return f"{self.held_out:.2%} of the documents, by hash of the text"
        return ", ".join(path.name for path in self.val[:3]) + (", …" if len(self.val) > 3 else "")


@dataclass(frozen=True)
class TextSource:
    """Flags of every stage that reads text: the dataset and its validation split."""

    dataset: str | None = None
    """builtin[:small|medium|large[:SEED]], fineweb-edu, climbmix, or a file, folder or pattern; default: the first
    downloaded hub dataset, else builtin."""
    text_column: str = TEXT_COLUMN
    """The parquet column or jsonl field with the text."""
    val_path: str | None = None
    """Validation text; default: the last parquet or jsonl file, or a held-out share of the documents."""
    val_fraction: float = VAL_FRACTION
    """The share of documents to hold out, if the validation split is not separate files."""
    need_shards: int | None = None
    """Training shards of a hub dataset to use, waiting for those still downloading; default: those present."""

    def settled(self, paths: Paths) -> Self:
        """The flags with absolute paths, and with the default dataset filled in and printed.

        Raises ValueError for an unknown dataset, and for flags that mean nothing with it.
        """
        dataset = self.dataset
        if dataset is None:
            dataset, reason = default_dataset(paths)
            say(f"dataset {dataset}: {reason} (choose another with --dataset)")
        self._check(dataset)
        val_path = None if self.val_path is None else absolute(self.val_path)
        return replace(self, dataset=absolute_dataset(dataset), val_path=val_path)

    def _check(self, dataset: str) -> None:
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"--val-fraction must lie between 0 and 1, not {self.val_fraction:g}")
        if self.val_fraction != VAL_FRACTION and _is_named(dataset):
            raise ValueError(f"--val-fraction is for your own files: leave it out for {dataset}")
        require_positive(self, "need_shards")
        if self.need_shards is not None and dataset not in HUB_DATASETS:  # a recipe sets it for any dataset
            say(f"--need-shards is for hub datasets: it has no effect on {dataset}")

    def open(self, paths: Paths) -> Dataset:
        """The dataset of settled flags; raises as `open_dataset` does."""
        assert self.dataset is not None, "settled() comes first"
        return open_dataset(
            self.dataset,
            paths,
            text_column=self.text_column,
            val_path=self.val_path,
            val_fraction=self.val_fraction,
            need_shards=self.need_shards,
        )


def default_dataset(paths: Paths) -> tuple[str, str]:
    """The dataset without `--dataset`, and why: the first downloaded one of HUB_DATASETS, else builtin."""
    for name in HUB_DATASETS:
        if _is_downloaded(name, paths):
            return name, "downloaded from the hub"
    return BUILTIN, "no dataset has been downloaded from the hub"


def absolute_dataset(spec: str) -> str:
    """`spec` with an absolute path; names of datasets are unchanged.

    Raises ValueError if it is neither a name nor a path or pattern of files.
    """
    if _is_named(spec):
        return spec
    if not names_files(spec):
        names = ", ".join([BUILTIN, *HUB_DATASETS])
        raise ValueError(f"unknown dataset {spec!r}: no such file or folder, and none of {names}")
    return absolute(spec)


def dataset_key(spec: str) -> str:
    """A folder name for data derived from the dataset `spec`, different for different datasets."""
    if _is_named(spec):
        kind, _, options = spec.partition(":")
        return builtin_name(options) if kind == BUILTIN else spec
    return unique_name(spec)


def _is_named(spec: str) -> bool:
    """Whether `spec` is a dataset's name, not a path or pattern."""
    return spec.partition(":")[0] == BUILTIN or spec in HUB_DATASETS


def open_dataset(
    spec: str,
    paths: Paths,
    *,
    text_column: str = TEXT_COLUMN,
    val_path: str | None = None,
    val_fraction: float = VAL_FRACTION,
    need_shards: int | None = None,
) -> Dataset:
    """Open a dataset: "builtin[:small|medium|large[:SEED]]" (made on first use), "fineweb-edu", "climbmix"
    (downloaded shards up to the first gap), or a file, folder or glob of parquet, jsonl, txt or md.

    Folders are searched recursively for parquet files, or if there are none for jsonl files, or else for text files.
    `need_shards`: use exactly that many training shards of a hub dataset, waiting for those still downloading.

    Raises ValueError, with a remedy, for an unknown name, an empty folder, a missing column, too few documents to
    hold some out, or a `val_path` that leaves no file to train on.
    """
    kind, _, options = spec.partition(":")
    if kind == BUILTIN:
        name, (*train, val) = builtin_shards(options, paths)
        dataset = Dataset(name, tuple(train), (val,))
    elif spec in HUB_DATASETS:
        dataset = _open_hub(spec, paths, need_shards)
    else:
        dataset = _open_files(absolute_dataset(spec), text_column, val_path, val_fraction)
    if val_path is not None:
        held_out = tuple(find_files(val_path))
        dataset = Dataset(dataset.name, _without(dataset.train, held_out), held_out, text_column)
    check_columns({*dataset.train, *dataset.val}, text_column)
    return dataset


def _without(train: Sequence[Path], val: Sequence[Path]) -> tuple[Path, ...]:
    """The files of `train` that are not in `val` too, by whatever name. Raises ValueError if none is left."""
    held_out = {path.resolve() for path in val}
    kept = tuple(path for path in train if path.resolve() not in held_out)
    if not kept:
        raise ValueError("--val-path holds every file of the dataset: none is left to train on")
    return kept


def documents(dataset: Dataset, split: Split) -> Iterator[str]:
    """Every document of a split, in order. Raises ValueError if there is none."""
    found = False
    for path in dataset.files(split):
        for document in split_documents(dataset, path, split):
            found = True
            yield document
    if not found:
        raise ValueError(_no_documents(dataset, split))


def split_documents(
    dataset: Dataset, path: Path, split: Split, counts: Counts | None = None
) -> Iterator[str]:
    """The documents of `split` in one of the dataset's files, in order.

    `counts` accumulates documents and characters of the split, and repairs and drops of the whole file.
    """
    counts = Counts() if counts is None else counts
    for document in read_documents(path, dataset.text_column, counts):
        if not dataset.held_out or (held_out_fraction(document) < dataset.held_out) == (split == "val"):
            yield document
        else:
            counts.documents -= 1
            counts.characters -= len(document)


def split_bytes(dataset: Dataset, split: Split, files: Sequence[Path] | None = None) -> float:
    """The approximate bytes of UTF-8 text of a split (in some of its files)."""
    share = dataset.held_out if split == "val" else 1 - dataset.held_out
    files = dataset.files(split) if files is None else files
    whole = sum(text_bytes(path, dataset.text_column) for path in files)
    return whole * (share if dataset.held_out else 1)


def held_out_fraction(document: str) -> float:
    """The hash of a document's text, scaled to [0, 1)."""
    return int.from_bytes(hashlib.blake2b(document.encode(), digest_size=6).digest(), "little") / 2**48


def _no_documents(dataset: Dataset, split: Split) -> str:
    if dataset.held_out:
        return f"{dataset.name} has no document for {split}: {_MORE_DOCUMENTS}"
    files = dataset.files(split)
    return f"{files[0] if len(files) == 1 else dataset.name} has no text"


# ---- hub


def _open_hub(name: str, paths: Paths, need_shards: int | None) -> Dataset:
    hub, folder = HUB_DATASETS[name], paths.data(name)
    if need_shards is not None and not 1 <= need_shards <= hub.val_index:
        raise ValueError(f"{name} has {hub.val_index} training shards, --need-shards wants {need_shards}")
    val = folder / shard_name(hub.val_index)
    if need_shards is None and not _is_downloaded(name, paths):
        raise ValueError(f"{name} is not downloaded: run `nanochat data download --dataset {name}`")
    shards = min(unbroken(folder), hub.val_index) if need_shards is None else need_shards
    train = [folder / shard_name(index) for index in range(shards)]
    wait_for(name, folder, [*train, val])
    return Dataset(name, tuple(train), (val,))


def _is_downloaded(name: str, paths: Paths) -> bool:
    """Whether enough of a hub dataset is downloaded to train on: its first and its validation shard."""
    folder = paths.data(name)
    return all((folder / shard_name(index)).exists() for index in (0, HUB_DATASETS[name].val_index))


# ---- the user's own files


def _open_files(spec: str, text_column: str, val_path: str | None, val_fraction: float) -> Dataset:
    files, name = find_files(spec), short_name(spec)
    if val_path is not None:
        return Dataset(name, tuple(files), (), text_column)
    if len(files) > 1 and {format_of(path) for path in files} <= {".parquet", ".jsonl"}:
        return Dataset(name, tuple(files[:-1]), (files[-1],), text_column)
    if not 0 < val_fraction < 1:
        raise ValueError(f"--val-fraction must be above 0 and below 1, not {val_fraction:g}")
    return _hold_out(Dataset(name, tuple(files), tuple(files), text_column), val_fraction)


def _hold_out(dataset: Dataset, share: float) -> Dataset:
    """`dataset` with a held-out share; in a small source, at least one document."""
    if sum(path.stat().st_size for path in dataset.train) <= _SMALL_SOURCE_BYTES:
        fractions = sorted(map(held_out_fraction, documents(dataset, "train")))
        share = max(share, math.nextafter(fractions[0], 1))
        if share > fractions[-1]:
            chosen = "1 document, which was" if len(fractions) == 1 else f"{len(fractions)} documents, all"
            why = f"{dataset.name} has only {chosen} chosen for validation, so none is left to train on"
            raise ValueError(f"{why}: {_MORE_DOCUMENTS}")
    return Dataset(dataset.name, dataset.train, dataset.val, dataset.text_column, held_out=share)
