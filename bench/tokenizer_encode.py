"""Encoding speed of our Tokenizer (which uses tiktoken) against HF tokenizers, on the same ranks and text.

    python bench/tokenizer_encode.py --text FOLDER --tokenizer tok32768.tiktoken --megabytes 20 --repeats 5

FOLDER holds parquet shards with a column `text`. Runs alternate A B C A B C … in one process; prints megabytes per
second and the ratio to the first. All must give the same ids.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from tokenizer_train import byte_level_characters, read_all

from nanochat.tokenizer.special import SPECIAL_TOKENS
from nanochat.tokenizer.tokenizer import Tokenizer, load_tokenizer

Encode = Callable[[Sequence[str]], list[list[int]]]


def merges_of(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The merges behind a rank table: the parts of each token, found by encoding it with the lower ranks only."""
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1])[256:]:
        parts = [bytes([byte]) for byte in token]
        while len(parts) > 2:
            joined = [ranks.get(a + b, rank) for a, b in pairwise(parts)]
            i = min(range(len(joined)), key=joined.__getitem__)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        merges.append((parts[0], parts[1]))
    return merges


def hf_encoder(tokenizer: Tokenizer) -> Encode:
    from tokenizers import Regex, models, pre_tokenizers
    from tokenizers import Tokenizer as HfTokenizer

    characters = byte_level_characters()

    def name(token: bytes) -> str:
        return "".join(characters[byte] for byte in token)

    ordinary = range(tokenizer.vocab_size - len(SPECIAL_TOKENS))
    ranks = {tokenizer.decode_bytes([token]): token for token in ordinary}
    vocab = {name(token): rank for token, rank in ranks.items()}
    hf = HfTokenizer(models.BPE(vocab, [(name(a), name(b)) for a, b in merges_of(ranks)]))
    hf.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(tokenizer.pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return lambda texts: [encoding.ids for encoding in hf.encode_batch_fast(list(texts))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()

    tokenizer = load_tokenizer(arguments.tokenizer)
    texts, size = [], 0
    for text in read_all(arguments.text):
        if size >= arguments.megabytes * 1e6:
            break
        texts.append(text)
        size += len(text.encode())

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    encoders: dict[str, Encode] = {
        "ours, 1 thread": tokenizer.encode_batch,
        f"ours, {arguments.threads} threads": lambda some: tokenizer.encode_batch(some, arguments.threads),
        "HF tokenizers, 1 thread": hf_encoder(tokenizer),
    }
    sample = texts[:50]
    expected = tokenizer.encode_batch(sample)
    for name, encode in encoders.items():
        assert encode(sample) == expected, f"{name} gives other ids"

    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    for _ in range(arguments.repeats):
        for name, encode in encoders.items():
            began = time.perf_counter()
            encode(texts)
            seconds[name].append(time.perf_counter() - began)
    base = seconds["ours, 1 thread"]
    print(f"{size / 1e6:.1f} MB in {len(texts)} documents, {tokenizer}")
    for name, own in seconds.items():
        ratios = sorted(b / o for b, o in zip(base, own, strict=True))
        print(
            f"{name:24s} {size / 1e6 / statistics.median(own):7.2f} MB/s   "
            f"x {statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
        )


if __name__ == "__main__":
    main()
