"""The stage `data download`: shards of a hub dataset, the validation shard first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from nanochat import hub
from nanochat.console import amount, say
from nanochat.paths import Paths
from nanochat.text.datasets import HUB_DATASETS
from nanochat.text.shards import shard_name


@dataclass(frozen=True)
class DownloadConfig:
    """What to fetch. A run that was broken off goes on where it stopped; what is here is not fetched again."""

    dataset: str = "fineweb-edu"
    """fineweb-edu or climbmix"""
    num_shards: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 8
    """training shards, from the first on; the validation shard comes with them"""
    workers: int = hub.WORKERS
    """files at a time"""


@dataclass(frozen=True)
class DownloadResult:
    """What now lies in `directory`: the validation shard, and `num_shards` training shards from the first on."""

    dataset: str
    directory: Path
    num_shards: int
    bytes: int


def run(config: DownloadConfig, paths: Paths) -> DownloadResult:
    """Bring the shards. Raises ValueError for what the dataset does not have, EnvironmentFault for the rest."""
    remote = HUB_DATASETS.get(config.dataset)
    if remote is None:
        raise ValueError(f"no dataset {config.dataset!r} to download: there are {', '.join(HUB_DATASETS)}")
    if not 0 <= config.num_shards <= remote.val_index:
        raise ValueError(
            f"{config.dataset} has {remote.val_index} training shards, cannot fetch {config.num_shards}"
        )
    if config.workers < 1:
        raise ValueError(f"--workers must be at least 1, got {config.workers}")
    directory = paths.data(config.dataset)
    indices = [remote.val_index, *range(config.num_shards)]
    files = hub.fetch_files(
        remote.repo,
        [shard_name(index) for index in indices],
        directory,
        workers=config.workers,
        check=hub.check_parquet,
    )
    size = sum(file.stat().st_size for file in files)
    say(
        f"{config.dataset}: {config.num_shards} training shards and validation, {amount(size)}B, in {directory}"
    )
    return DownloadResult(config.dataset, directory, config.num_shards, size)
