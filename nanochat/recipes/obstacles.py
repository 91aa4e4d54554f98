"""What speaks against a recipe on this machine, before its first stage downloads anything.

`python -m nanochat.recipes.obstacles NPROC COMMAND` checks a pretraining command, in a process of its own: a look at a
GPU occupies some of its memory for as long as the process lives.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from nanochat.recipes.recipe import Stage


def obstacle(stages: Sequence[Stage], processes: int) -> str | None:
    """Why this machine cannot run these stages on so many processes, in one line; None if nothing is known."""
    for stage in stages:
        problem = _too_many_shards(stage)
        if stage.argv[0] == "pretrain":
            # A check that fails itself is no obstacle: its output is empty.
            command = [sys.executable, "-m", __name__, str(processes), *stage.argv]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            problem = done.stdout.strip() or None
        if problem is not None:
            return problem
    return None


def _too_many_shards(stage: Stage) -> str | None:
    from nanochat.text.datasets import HUB_DATASETS

    asked, dataset = stage.flags.get("num-shards", ""), stage.flags.get("dataset", "")
    if dataset not in HUB_DATASETS or not asked.isdecimal() or int(asked) <= HUB_DATASETS[dataset].val_index:
        return None
    most = HUB_DATASETS[dataset].val_index
    return (
        f"{stage.name} needs {int(asked):,} training shards and {dataset} has {most:,}: choose a smaller --depth, "
        f"or --set {stage.name}.num-shards={most} to read them more than once"
    )


def pretraining_obstacle(argv: Sequence[str], processes: int) -> str | None:
    """Why a pretraining command cannot run here: its depth, the GPUs, fp8 or memory; None if nothing is known."""
    import torch

    from nanochat import hardware
    from nanochat.cli.main import parse_command
    from nanochat.model.fp8 import choose_fp8
    from nanochat.runtime import choose_device, choose_dtype
    from nanochat.scaling import make_plan

    try:
        config = parse_command(argv)
        kind, _ = choose_device(config.device)
        memory = hardware.memory().available // processes
        if kind == "cuda":
            gpus = torch.cuda.device_count()
            if processes > gpus:
                return f"--nproc {processes} takes as many GPUs, and this machine has {gpus}"
            memory = torch.cuda.get_device_properties(0).total_memory
        choose_fp8(config.fp8, torch.device(kind))
        if config.minutes is None and config.vocab_size is not None:
            dtype, _ = choose_dtype(kind, config.dtype)
            make_plan(config, config.vocab_size, kind, processes, memory, dtype)
    except ValueError as error:
        return str(error)
    return None


if __name__ == "__main__":
    print(pretraining_obstacle(sys.argv[2:], int(sys.argv[1])) or "")
