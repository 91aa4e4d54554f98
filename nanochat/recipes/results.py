"""Results of stages: each function says, from a stage's flags, whether they all exist.

Imports are within the functions, since a recipe without finished stages calls none of them.
"""

from __future__ import annotations

from nanochat.paths import Paths
from nanochat.recipes.recipe import Flags


def report_begun(flags: Flags, paths: Paths) -> bool:
    """After `report reset`."""
    return (paths.report / "system.json").exists()


def report_written(flags: Flags, paths: Paths) -> bool:
    """After `report generate`."""
    return all((paths.report / name).exists() for name in ("report.md", "report.html"))


def shards_downloaded(flags: Flags, paths: Paths) -> bool:
    """After `data download`."""
    from nanochat.text.datasets import HUB_DATASETS
    from nanochat.text.shards import shard_name

    dataset = flags["dataset"]
    indices = [*range(int(flags["num-shards"])), HUB_DATASETS[dataset].val_index]
    return all((paths.data(dataset) / shard_name(index)).exists() for index in indices)


def tokenizer_trained(flags: Flags, paths: Paths) -> bool:
    """After `tokenizer train`."""
    from nanochat.text.dataset_tokenizer import tokenizer_sizes

    sizes = tokenizer_sizes(flags["dataset"], paths)
    return int(flags["vocab-size"]) in sizes if "vocab-size" in flags else bool(sizes)


def training_finished(flags: Flags, paths: Paths) -> bool:
    """After `pretrain` or `sft`."""
    from nanochat.checkpoint.store import finished_step

    return finished_step(paths.checkpoints(flags["model-tag"])) is not None
