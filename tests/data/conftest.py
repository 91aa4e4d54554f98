"""A byte-level tokenizer that needs no training, runtimes of any rank, and small datasets."""

import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from nanochat.data.datasets import Dataset
from nanochat.data.shards import shard_name, write_shard
from nanochat.paths import Paths
from nanochat.runtime import Runtime
from nanochat.tokenizer.tokenizer import Tokenizer

settings.register_profile("unhurried", deadline=None)  # a busy machine is no failure
settings.load_profile("unhurried")

BYTES = {bytes([byte]): byte for byte in range(256)}


@contextmanager
def traced() -> Iterator[Callable[[], int]]:
    """Gives a function that tells the most bytes that Python has held since."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """Every byte a token: 265 ids."""
    return Tokenizer(BYTES, r"[\s\S]")


@pytest.fixture
def paths(base_dir: Path) -> Paths:
    return Paths(base_dir)


@pytest.fixture
def runtime(paths: Paths) -> Callable[..., Runtime]:
    """A process of a world, without a process group (loaders do not communicate)."""

    def make(rank: int = 0, world_size: int = 1) -> Runtime:
        return Runtime(rank, rank, world_size, torch.device("cpu"), torch.float32, paths)

    return make


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Dataset]:
    """A dataset of parquet shards, one for each list of documents."""

    def make(*shards: Sequence[str], name: str = "made") -> Dataset:
        files = [tmp_path / name / shard_name(index) for index in range(len(shards))]
        for file, documents in zip(files, shards, strict=True):
            write_shard(file, documents)
        return Dataset(name, tuple(files), tuple(files[-1:]))

    return make
