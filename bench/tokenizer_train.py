"""Tokenizer trainers compared on the same text: time, peak memory, resulting bytes per token.

    python bench/tokenizer_train.py --text FOLDER --megabytes 200 --vocab-size 32768 --repeats 3

FOLDER holds parquet shards with a column `text`. They are repeated until the megabytes are reached, so beyond the
folder's size counts grow but the number of distinct words does not. `--novelty` enciphers that share of the documents
of every further round with another alphabet, which gives new words, as more real text would. Every fiftieth document
is held out of training and measured afterwards.

Each trainer runs in a separate process, alternating (A B C A B C …). "reading" does everything but train.
Trainers that are not installed are skipped (tokenizers comes with `runs/setup.sh --dev`; others: pip install).
"""

import argparse
import hashlib
import importlib.util
import json
import random
import resource
import statistics
import string
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import tiktoken

from nanochat.tokenizer.patterns import split_pattern
from nanochat.tokenizer.special import SPECIAL_TOKENS

HELD_OUT = 50  # every n-th document
DOC_CAP = 10_000
Ranks = dict[bytes, int]
Trainer = Callable[[Iterator[str], int, str], Ranks]


def train_rustbpe(texts: Iterator[str], tokens: int, pattern: str) -> Ranks:
    import rustbpe

    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(texts, tokens, buffer_size=4096, pattern=pattern)
    return {bytes(token): rank for token, rank in trainer.get_mergeable_ranks()}


def train_tokenizers(texts: Iterator[str], tokens: int, pattern: str) -> Ranks:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=tokens, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    byte_of = {character: byte for byte, character in byte_level_characters().items()}
    return {
        bytes(byte_of[character] for character in token): rank
        for token, rank in tokenizer.get_vocab().items()
    }


def train_bpeasy(texts: Iterator[str], tokens: int, pattern: str) -> Ranks:
    import bpeasy

    return bpeasy.train_bpe(texts, pattern, 128, tokens, 4096)


def train_ffbpe(texts: Iterator[str], tokens: int, pattern: str) -> Ranks:
    from ffbpe import BpeTrainer, PreTokenizer

    counter = PreTokenizer([], pat_str=pattern).word_counter()
    counter.add_source(texts)
    trainer = BpeTrainer([], unit="byte", initial_alphabet="raw", tie_break="smallest_pair_id")
    trainer.add_word_counter(counter)
    trainer.train(tokens)
    return dict(trainer.vocab)


def read_only(texts: Iterator[str], tokens: int, pattern: str) -> Ranks:
    for _ in texts:
        pass
    return {}


TRAINERS: dict[str, Trainer] = {
    "reading": read_only,
    "rustbpe": train_rustbpe,
    "tokenizers": train_tokenizers,
    "bpeasy": train_bpeasy,
    "ffbpe": train_ffbpe,
}


def byte_level_characters() -> dict[int, str]:
    """The printable character for each byte in GPT-2's byte-level alphabet."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def read(folder: Path, megabytes: float, novelty: float) -> Iterator[str]:
    """Training documents, repeated in rounds until the megabytes (10^6 bytes) are reached."""
    left = megabytes * 1e6
    for round_number in range(sys.maxsize):
        chance = random.Random(round_number)
        shuffled = chance.sample(string.ascii_lowercase, 26)
        cipher = str.maketrans(string.ascii_lowercase, "".join(shuffled))
        for text in (text for i, text in enumerate(read_all(folder)) if i % HELD_OUT):
            if left <= 0:
                return
            fresh = round_number > 0 and chance.random() < novelty
            text = text[:DOC_CAP].translate(cipher) if fresh else text[:DOC_CAP]
            left -= len(text.encode())
            yield text


def read_all(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(256, columns=["text"]):
            yield from batch["text"].to_pylist()


def child(arguments: argparse.Namespace) -> None:
    """Train once and print the figures as JSON."""
    pattern = split_pattern(arguments.split_pattern)
    tokens = arguments.vocab_size - len(SPECIAL_TOKENS)
    began = time.perf_counter()
    texts = read(arguments.text, arguments.megabytes, arguments.novelty)
    ranks = TRAINERS[arguments.child](texts, tokens, pattern)
    figures = {
        "seconds": time.perf_counter() - began,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "tokens": len(ranks),
    }
    if ranks:
        encoding = tiktoken.Encoding("bench", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        held_out = [text[:DOC_CAP] for i, text in enumerate(read_all(arguments.text)) if i % HELD_OUT == 0]
        count = sum(len(encoding.encode_ordinary(text)) for text in held_out)
        figures["bytes_per_token"] = sum(len(text.encode()) for text in held_out) / count
        merged = sorted(token for token, rank in ranks.items() if rank >= 256)
        figures["vocabulary"] = hashlib.sha256(b"\0".join(merged)).hexdigest()[:8]
    print(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--megabytes", type=float, default=200)
    parser.add_argument("--novelty", type=float, default=0.0)
    parser.add_argument("--vocab-size", type=int, default=32_768)
    parser.add_argument("--split-pattern", default="default")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--trainers", nargs="+", choices=TRAINERS, default=list(TRAINERS))
    parser.add_argument("--child", choices=TRAINERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments)
        return
    chosen = [name for name in arguments.trainers if name == "reading" or importlib.util.find_spec(name)]
    if skipped := set(arguments.trainers) - set(chosen):
        print(f"not installed, skipped: {', '.join(sorted(skipped))}")
    runs: dict[str, list[dict]] = {name: [] for name in chosen}
    for _ in range(arguments.repeats):
        for name in chosen:
            command = [sys.executable, __file__, *sys.argv[1:], "--child", name]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            runs[name].append(json.loads(output.splitlines()[-1]))
            print(f"{name:12s} {runs[name][-1]}", flush=True)
    report(runs)


def report(runs: dict[str, list[dict]]) -> None:
    """Print medians, and the ratio of each run's time to that of rustbpe in the same round."""
    print(
        f"\n{'trainer':12s} {'seconds':>8s} {'x rustbpe (spread)':>22s} {'peak MiB':>9s} {'bytes/token':>11s}"
    )
    for name, own in runs.items():
        seconds = statistics.median(run["seconds"] for run in own)
        peak = max(run["peak_mib"] for run in own)
        pairs = zip(own, runs.get("rustbpe", own), strict=True)
        ratios = sorted(run["seconds"] / base["seconds"] for run, base in pairs)
        ratio = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
        quality = f"{own[0]['bytes_per_token']:.4f}" if "bytes_per_token" in own[0] else ""
        print(f"{name:12s} {seconds:8.2f} {ratio:>22s} {peak:9.0f} {quality:>11s}")


if __name__ == "__main__":
    main()
