"""The stages `data tokens`, `data pack` and `data info`."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from pathlib import Path

from nanochat import hardware
from nanochat.batches.token_cache import open_tokens
from nanochat.bounds import require_fraction, require_not_negative, require_positive
from nanochat.console import amount, counted, progress, say, table
from nanochat.paths import Paths, expanded
from nanochat.text.dataset_tokenizer import TokenizedText
from nanochat.text.datasets import Dataset, Split, TextSource, split_bytes, split_documents
from nanochat.text.make_shards import PackSettings, pack
from nanochat.text.own_files import find_files
from nanochat.text.readers import TEXT_COLUMN, Counts, check_columns
from nanochat.text.shards import text_bytes

_TELL_EVERY = 1000  # documents


# ---- data tokens


@dataclass(frozen=True)
class TokensConfig(TokenizedText):
    """Tokenise the training split into the cache; training otherwise does it on the fly."""

    workers: int | None = None
    """threads; default: one per core"""


@dataclass(frozen=True)
class TokensResult:
    """The contents of the cache."""

    dataset: str
    directory: Path
    shards: int
    tokens: int
    counts: Counts
    seconds: float


def run_tokens(config: TokensConfig, paths: Paths) -> TokensResult:
    """Tokenise ahead of training. Raises ValueError if dataset or tokenizer is missing."""
    require_positive(config, "workers")
    config = config.settled(paths)
    tokenizer = config.find_tokenizer(paths)
    dataset = config.open(paths)
    store = open_tokens(dataset, tokenizer, paths, workers=config.workers or hardware.usable_cores())
    began = time.monotonic()
    with progress(f"tokenise {dataset.name}", split_bytes(dataset, "train"), "B") as shown:
        infos = store.make_all(shown.update)
    seconds = time.monotonic() - began
    counts = Counts()
    for info in infos:
        counts.add(info.counts)
    tokens = sum(info.tokens for info in infos)
    directory = paths.tokens(dataset.name, tokenizer.hash)
    say(f"{dataset.name}: {amount(tokens)} tokens of {counts} in {directory}")
    return TokensResult(dataset.name, directory, len(store), tokens, counts, seconds)


# ---- data pack


@dataclass(frozen=True)
class PackConfig:
    """Make shuffled parquet shards of your own text; train on them with --dataset OUT."""

    source: str
    """a file, folder or pattern of parquet, jsonl, txt or md (also .gz, .zst)"""
    out: Path
    """the folder for the shards, outside the source"""
    text_column: str = TEXT_COLUMN
    """the parquet column or jsonl field with the text"""
    shard_mb: float = 250
    """text per shard, in megabytes (about 2.5 times the file)"""
    val_fraction: float = 0.01
    """share of documents in the last shard, for validation: at least one document, at most about 64 MiB of text"""
    seed: int = 0


@dataclass(frozen=True)
class PackResult:
    """The number of training shards in the folder `out`, and counts of what was read."""

    out: Path
    train_shards: int
    counts: Counts


def run_pack(config: PackConfig, paths: Paths) -> PackResult:
    """Shuffle any text into shards. Raises ValueError for impossible sources or settings."""
    files, settings = pack_job(config)
    total = sum(text_bytes(path, config.text_column) for path in files)
    with progress("pack", 2 * total, "B") as shown:
        manifest, shards = pack(files, config.out, settings, shown.update)
    say(
        f"{counted(len(shards) - 1, 'training shard')} and 1 for validation in {config.out}: {manifest.counts}"
    )
    return PackResult(config.out, len(shards) - 1, manifest.counts)


def pack_job(config: PackConfig) -> tuple[list[Path], PackSettings]:
    """The source files and the settings of the shards. Raises ValueError for impossible ones."""
    require_positive(config, "shard_mb")
    require_fraction(config, "val_fraction")
    require_not_negative(config, "seed")
    files = find_files(config.source)
    source, out = expanded(config.source).resolve(), config.out.resolve()
    within = source.is_dir() and out.is_relative_to(source)
    if within or any(path.resolve().is_relative_to(out) for path in files):
        raise ValueError(
            f"--source {config.source} and --out {config.out} overlap: choose a folder outside the source"
        )
    check_columns(files, config.text_column)
    shard_bytes = max(int(config.shard_mb * 1e6), 1)
    return files, PackSettings(config.text_column, shard_bytes, config.val_fraction, config.seed)


# ---- data info


@dataclass(frozen=True)
class InfoConfig(TextSource):
    """Count the documents and characters of a dataset, reading all of it."""


@dataclass(frozen=True)
class SplitInfo:
    """The files and documents of a split."""

    files: int
    counts: Counts


@dataclass(frozen=True)
class InfoResult:
    """The counts of both splits; `validation` describes how the validation split is chosen."""

    dataset: str
    validation: str
    train: SplitInfo
    val: SplitInfo


def run_info(config: InfoConfig, paths: Paths) -> InfoResult:
    """Read both splits and count. Raises ValueError for a missing dataset."""
    dataset = config.settled(paths).open(paths)
    train, val = _count(dataset, "train"), _count(dataset, "val")
    rows = [("files", train.files, val.files)]
    for name in (counter.name for counter in fields(Counts)):
        rows.append((name, getattr(train.counts, name), getattr(val.counts, name)))
    shown = [(name, f"{here:,}", f"{there:,}") for name, here, there in rows]
    table(f"{dataset.name}; validation: {dataset.validation}", ("", "train", "val"), shown)
    return InfoResult(dataset.name, dataset.validation, train, val)


def _count(dataset: Dataset, split: Split) -> SplitInfo:
    files, counts, read = dataset.files(split), Counts(), 0
    with progress(f"read {split}", split_bytes(dataset, split), "B") as shown:
        for path in files:
            for number, text in enumerate(split_documents(dataset, path, split, counts)):
                read += len(text.encode())
                if number % _TELL_EVERY == 0:
                    shown.update(read)
    return SplitInfo(len(files), counts)
