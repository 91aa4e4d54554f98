"""What packing policies discard on real documents: ours, and the reference's greedy packer.

    python bench/packing.py --dataset ../shared/data/corpus --vocab-size 8192 --context 256 512 2048

The greedy packer keeps a buffer of documents, refilled in batches. It fills each row of T + 1 tokens with the largest
document that fits, repeatedly; if none fits, it crops the shortest one to fill the row and discards its rest. (The
reference's own loader discards the same shares over an epoch, to within 0.02 %.)

Columns, as shares of all tokens of packed documents (documents left in the greedy packer's buffer do not count):
- discarded: in no row, never learnt;
- late start: learnt, but in a part of a document without its beginning;
- added: extra BOS and padding.
Cuts are per 1,000 rows.
"""

from __future__ import annotations

import argparse
from bisect import bisect_right, insort
from itertools import islice

import numpy as np

from nanochat.batches.packing import POLICIES, Policy, plan_rows
from nanochat.paths import default_paths
from nanochat.text.dataset_tokenizer import find_tokenizer
from nanochat.text.datasets import documents, open_dataset
from nanochat.tokenizer.tokenizer import load_tokenizer

GREEDY_BUFFER, GREEDY_REFILL = 1000, 128
WINDOW_DOCUMENTS = 2000  # planned at once: about a piece of the token cache


def greedy(lengths: list[int], context: int) -> tuple[int, int, int, int]:
    """Rows, tokens used, tokens discarded and cuts of the reference's packer."""
    waiting = iter(lengths)
    buffer: list[int] = []
    rows = used = discarded = cuts = 0
    while True:
        room = context + 1
        while room:
            while len(buffer) < GREEDY_BUFFER:
                batch = list(islice(waiting, GREEDY_REFILL))
                if not batch:
                    return rows, used, discarded, cuts
                for length in batch:
                    insort(buffer, length)
            fitting = bisect_right(buffer, room)
            if fitting:
                taken = buffer.pop(fitting - 1)
            else:
                shortest = buffer.pop(0)
                taken, cuts = room, cuts + 1
                discarded += shortest - room
            room -= taken
            used += taken
        rows += 1


def ours(lengths: list[int], context: int, policy: Policy) -> list[str]:
    rows = discarded = late = added = cuts = 0
    for window, begin in enumerate(range(0, len(lengths), WINDOW_DOCUMENTS)):
        part = np.array(lengths[begin : begin + WINDOW_DOCUMENTS])
        planned = plan_rows(part, context, policy, np.random.default_rng(window))
        for row in planned.rows(context):
            rows += 1
            late += sum(length for document, start, length in row if document >= 0 and start > 0)
            cuts += policy == "contiguous" and row[0][1] > 0
        discarded += int(planned.row_dropped.sum())
        added += int(planned.row_padded.sum()) + planned.inserted
        cuts += planned.cuts
    return _line(policy, sum(lengths), rows, discarded, late, added, cuts)


def _line(name: str, tokens: int, rows: int, discarded: int, late: int, added: int, cuts: int) -> list[str]:
    shares = (f"{share / tokens:.2%}" for share in (discarded, late, added))
    return [name, *shares, f"{1000 * cuts / rows:.0f}", str(rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description="What packing policies discard.")
    parser.add_argument("--dataset", default="builtin")
    parser.add_argument("--vocab-size", type=int, default=None)
    parser.add_argument("--context", type=int, nargs="+", default=[256, 512, 2048])
    options = parser.parse_args()
    paths = default_paths()
    tokenizer = load_tokenizer(find_tokenizer(options.dataset, paths, vocab_size=options.vocab_size))
    texts = list(documents(open_dataset(options.dataset, paths), "train"))
    lengths = [len(ids) + 1 for ids in tokenizer.encode_batch(texts, threads=2)]
    print(f"{len(lengths):,} documents, {sum(lengths):,} tokens, vocabulary {tokenizer.vocab_size:,}")
    for context in options.context:
        rows, used, discarded, cuts = greedy(lengths, context)
        lines = [_line("greedy (reference)", used + discarded, rows, discarded, 0, 0, cuts)]
        lines += [ours(lengths, context, policy) for policy in POLICIES]
        print(
            f"\n{f'T = {context}':20} {'discarded':>10} {'late start':>10} {'added':>8} {'cuts':>6} {'rows':>8}"
        )
        for name, discarded_share, late, added, cut, count in lines:
            print(f"{name:20} {discarded_share:>10} {late:>10} {added:>8} {cut:>6} {count:>8}")


if __name__ == "__main__":
    main()
