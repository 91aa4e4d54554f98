"""Fixtures for all tests: an isolated base directory, and real data if it is available."""

import os
import resource
import signal
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from nanochat.checkpoint.meta import CheckpointMeta, Progress, TrainingPlan
from nanochat.model.gpt_config import GPTConfig
from nanochat.optim.groups import LearningRates
from nanochat.optim.schedule import Schedule
from nanochat.paths import Paths
from nanochat.processes import Processes
from nanochat.runtime import Runtime
from nanochat.text.datasets import Dataset
from nanochat.text.shards import shard_name, write_shard
from nanochat.tokenizer.tokenizer import Tokenizer

# Tiny models run as fast on one thread, and two tests' threads never wait for each other. Child processes inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def base_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the user's own artefacts."""
    directory = tmp_path / "base"
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(directory))
    monkeypatch.delenv("WANDB_RUN", raising=False)
    monkeypatch.delenv("NANOCHAT_TRACK", raising=False)
    return directory


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real text and benchmarks (never committed); tests that need them are skipped where they are absent."""
    directory = Path(os.environ.get("NANOCHAT_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not directory.is_dir():
        pytest.skip(f"real data not found at {directory} (set NANOCHAT_SHARED_DATA)")
    return directory


settings.register_profile("unhurried", deadline=None)  # a busy machine is no failure
settings.load_profile("unhurried")

BYTES = {bytes([byte]): byte for byte in range(256)}


@contextmanager
def traced() -> Iterator[Callable[[], int]]:
    """A function that returns the peak of bytes allocated by Python since the start of the block."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@contextmanager
def full_disk(after: int) -> Iterator[None]:
    """Writes fail half-way, beyond so many bytes of a file (RLIMIT_FSIZE), as on a full disk."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (after, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


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
        return Runtime(Processes(rank, world_size), torch.device("cpu"), torch.float32, paths)

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


def made_up_meta(shape: GPTConfig | None = None, step: int = 0, **fields: Any) -> CheckpointMeta:
    """What a long run that never was says of itself at `step`."""
    plan = TrainingPlan(
        schedule=Schedule(
            10**7, warmup_steps=0, warmdown_fraction=0.5, final_lr=0.0, momentum_warmup_steps=0
        ),
        rates=LearningRates(0.02, 0.3, 0.15, 0.008, 0.5, weight_decay=0.0),
        muon_per_head=True,
        batch_tokens=256,
        device_batch_size=2,
        seed=42,
    )
    known = {"stage": "pretrain", "tokenizer": "0123456789abcdef", "plan": plan}
    return CheckpointMeta(model=shape or GPTConfig(), progress=Progress(step), **{**known, **fields})
