"""Tokens per second of a loader in steady state, ours or a peer's; run it through `bench/paired.py`.

    python bench/loader.py --dataset ../shared/data/corpus --vocab-size 8192 --context 2048 --rows 4
    NANOCHAT_BASE_DIR=~/peer python bench/loader.py --peer ../peer-tree --context 2048 --rows 4

Ours reads the token cache (made before the clock starts, as after the first epoch or `data tokens`) and gathers
rows. The peer's is imported from its working tree, with its tokenizer and the same shards where it expects them below
NANOCHAT_BASE_DIR; it tokenises on the fly. Neither trains a model, so the figure is an upper limit.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from time import perf_counter

import torch


def ours(options: argparse.Namespace) -> Iterator[torch.Tensor]:
    from nanochat.batches.loader import pretrain_loader
    from nanochat.batches.token_cache import open_tokens
    from nanochat.paths import default_paths
    from nanochat.processes import Processes
    from nanochat.runtime import Runtime
    from nanochat.text.dataset_tokenizer import find_tokenizer
    from nanochat.text.datasets import open_dataset
    from nanochat.tokenizer.tokenizer import load_tokenizer

    paths = default_paths()
    tokenizer = load_tokenizer(find_tokenizer(options.dataset, paths, vocab_size=options.vocab_size))
    dataset = open_dataset(options.dataset, paths)
    open_tokens(dataset, tokenizer, paths, workers=2).make_all()
    runtime = Runtime(Processes(), torch.device("cpu"), torch.float32, paths)
    loader = pretrain_loader(
        dataset,
        tokenizer,
        runtime,
        step_rows=options.rows,
        micro_rows=options.rows,
        max_seq_len=options.context,
        policy=options.policy,
        seed=0,
    )
    for [batch], _ in loader:
        yield batch.inputs_BT


def peer(options: argparse.Namespace) -> Iterator[torch.Tensor]:
    sys.path.insert(0, options.peer)
    from nanochat.dataloader import (  # type: ignore[import-not-found]
        tokenizing_distributed_data_loader_bos_bestfit,
    )

    from nanochat.tokenizer import get_tokenizer  # type: ignore[attr-defined]

    batches = tokenizing_distributed_data_loader_bos_bestfit(
        get_tokenizer(), options.rows, options.context, split="train", device="cpu"
    )
    for inputs, *_ in batches:
        yield inputs


def main() -> None:
    parser = argparse.ArgumentParser(description="Tokens per second of a loader.")
    parser.add_argument("--peer", help="the working tree of a peer; without it ours is measured")
    parser.add_argument("--dataset", default="builtin")
    parser.add_argument("--vocab-size", type=int, default=None)
    parser.add_argument("--policy", default="bestfit-crop")
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--warmup-s", type=float, default=3)
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    batches = peer(options) if options.peer else ours(options)
    next(batches)
    began = perf_counter()
    while perf_counter() - began < options.warmup_s:
        next(batches)
    began, count = perf_counter(), 0
    while (seconds := perf_counter() - began) < options.seconds:
        next(batches)
        count += 1
    print(f"tok/s: {count * options.rows * options.context / seconds:.0f}")
    print(f"ms per batch of {options.rows * options.context} tokens: {1000 * seconds / count:.3f}")


if __name__ == "__main__":
    main()
