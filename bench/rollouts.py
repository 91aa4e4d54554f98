"""Tokens per second of rollouts against one sample at a time, and the time to give an engine new weights.

python bench/rollouts.py --model-tag sft --pairs 5
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import islice
from statistics import median

import tyro

from nanochat.checkpoint.loading import load_model
from nanochat.infer.engine import Engine
from nanochat.paths import CHAT_RUN
from nanochat.runtime import open_runtime
from nanochat.tasks.registry import TASKS
from nanochat.train.rewards import parse_rewards
from nanochat.train.rollouts import Sampler, sample_seed
from nanochat.train.shuffled import Shuffled


@dataclass(frozen=True)
class Options:
    """What to measure."""

    model_tag: str = CHAT_RUN
    task: str = "builtin-thousands"
    prompts: int = 16
    samples: int = 8
    max_rows: int = 64
    pairs: int = 5


def tokens_per_s(sampler: Sampler, options: Options, seed: int) -> float:
    """Of all samples of the prompts that a seed draws."""
    items = sampler.task.items(None, "train", 0)  # type: ignore[arg-type]
    drawn = list(islice(Shuffled(items, seed), options.prompts))
    asked = [(index, item, sampler.prompt_ids(item) or []) for _, index, item in drawn]
    began = time.perf_counter()
    groups = sampler.groups(asked, options.samples, [sample_seed(seed, place) for place, _, _ in drawn])
    seconds = time.perf_counter() - began
    return sum(rollout.length for group in groups for rollout in group.rollouts) / seconds


def main(options: Options) -> None:
    """Print both rates and their ratio, pair by pair, and the median time of a refresh."""
    task = TASKS[options.task]
    with open_runtime() as runtime:
        loaded = load_model(options.model_tag, runtime)
        many, one = (
            Sampler(
                loaded.model,
                Engine(loaded.model, loaded.tokenizer, max_rows=rows),
                loaded.tokenizer,
                task,
                parse_rewards("answer"),
                task.max_new_tokens,
            )
            for rows in (options.max_rows, 1)
        )
        many.engine.settle()
        one.engine.settle()
        ratios, refreshes = [], []
        for seed in range(options.pairs):
            rates = tokens_per_s(many, options, seed), tokens_per_s(one, options, seed)
            ratios.append(rates[0] / rates[1])
            many.stale = True
            refreshes.append(many.refresh())
            print(
                f"{options.max_rows} at once {rates[0]:,.0f} tok/s, one {rates[1]:,.0f}: {ratios[-1]:.1f} times"
            )
        print(f"median {median(ratios):.1f} times; new weights in {1000 * median(refreshes):.1f} ms")


if __name__ == "__main__":
    main(tyro.cli(Options))
