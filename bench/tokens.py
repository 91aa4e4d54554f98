"""Megabytes of text per second tokenised into the cache, alternating between numbers of workers.

    python bench/tokens.py --dataset ../shared/data/corpus --vocab-size 8192 --workers 1 2 --repeat 5

The time includes reading, encoding and writing. The best repeats are compared, since other load on the machine only
slows a run down.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from time import perf_counter

from nanochat.batches.token_cache import open_tokens
from nanochat.paths import Paths, default_paths
from nanochat.text.dataset_tokenizer import find_tokenizer
from nanochat.text.datasets import Dataset, open_dataset
from nanochat.tokenizer.tokenizer import Tokenizer, load_tokenizer


def measure(dataset: Dataset, tokenizer: Tokenizer, workers: int) -> tuple[float, float]:
    """Wall-clock and CPU seconds to fill an empty cache."""
    with tempfile.TemporaryDirectory() as folder:
        store = open_tokens(dataset, tokenizer, Paths(Path(folder)), workers=workers)
        used, began = sum(os.times()[:2]), perf_counter()
        store.make_all()
        wall = perf_counter() - began
        store.close()
        return wall, sum(os.times()[:2]) - used


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of tokenising into the cache.")
    parser.add_argument("--dataset", default="builtin")
    parser.add_argument("--vocab-size", type=int, default=None)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    paths = default_paths()
    tokenizer = load_tokenizer(find_tokenizer(options.dataset, paths, vocab_size=options.vocab_size))
    dataset = open_dataset(options.dataset, paths)
    with tempfile.TemporaryDirectory() as folder:
        store = open_tokens(dataset, tokenizer, Paths(Path(folder)))
        megabytes = sum(info.counts.characters for info in store.make_all()) / 1e6
    best: dict[int, tuple[float, float]] = {}
    for _ in range(options.repeat):
        for workers in options.workers:
            seconds = measure(dataset, tokenizer, workers)
            best[workers] = min(best.get(workers, seconds), seconds)
    first = best[options.workers[0]][0]
    for workers, (wall, used) in best.items():
        print(
            f"workers {workers}: {wall:.2f} s, {used:.2f} s of processors, {megabytes / wall:.1f} M characters/s, "
            f"{first / wall:.2f} x"
        )


if __name__ == "__main__":
    main()
