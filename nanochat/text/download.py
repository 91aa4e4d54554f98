"""The stage `data download`: shards of a hub dataset, the validation shard first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from nanochat import hub
from nanochat.bounds import require_positive
from nanochat.console import amount, counted, say
from nanochat.paths import Paths
from nanochat.text.datasets import HUB_DATASETS
from nanochat.text.shards import shard_name


@dataclass(frozen=True)
class DownloadConfig:
    """Which shards to download. Interrupted downloads resume; complete files are not downloaded again."""

    dataset: str = "fineweb-edu"
    """fineweb-edu or climbmix"""
    num_shards: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 8
    """training shards, starting with the first; the validation shard is always included"""
    workers: int = hub.WORKERS
    """parallel downloads"""


@dataclass(frozen=True)
class DownloadResult:
    """What is in `directory`: the validation shard and the first `num_shards` training shards."""

    dataset: str
    directory: Path
    num_shards: int
    bytes: int


def run(config: DownloadConfig, paths: Paths) -> DownloadResult:
    """Download the missing shards. Raises ValueError for wrong settings, EnvironmentFault for failed downloads."""
    remote = HUB_DATASETS.get(config.dataset)
    if remote is None:
        raise ValueError(f"no dataset {config.dataset!r} to download: choose {' or '.join(HUB_DATASETS)}")
    if not 0 <= config.num_shards <= remote.val_index:
        raise ValueError(
            f"{config.dataset} has {remote.val_index} training shards; cannot download {config.num_shards}"
        )
    require_positive(config, "workers")
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
        f"{config.dataset}: {counted(config.num_shards, 'training shard')} and validation, {amount(size)}B, "
        f"in {directory}"
    )
    return DownloadResult(config.dataset, directory, config.num_shards, size)
