"""`nanochat tokenizer train`: learn a vocabulary from a dataset's training split and save it."""

import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from nanochat import hardware
from nanochat.config import to_json
from nanochat.console import say, table
from nanochat.flags import Tracker, default_track
from nanochat.metrics import open_metrics
from nanochat.metrics_rows import ConfigRow, DoneRow, TokenizerRow
from nanochat.paths import Paths
from nanochat.text.dataset_tokenizer import tokenizer_folder
from nanochat.text.datasets import BUILTIN, TextSource, dataset_key, documents
from nanochat.tokenizer.bpe import check_training, train_tokenizer
from nanochat.tokenizer.tokenizer import Tokenizer

DEFAULT_VOCAB_SIZE = 32_768
VOCAB_SIZES = {BUILTIN: 2_048}  # defaults of datasets that need fewer tokens
_SAMPLE_DOCUMENTS = 1000  # of the validation split, to measure bytes per token on unseen text


@dataclass(frozen=True)
class TokenizerTrainConfig(TextSource):
    """Learn a vocabulary from a dataset's training split."""

    vocab_size: int | None = None
    """Number of tokens, including the nine special ones; default: 32768 (builtin: 2048), or all the text yields."""
    max_chars: int = 2_000_000_000
    """Read at most this many characters."""
    doc_cap: int = 10_000
    """Read at most this many characters of each document."""
    split_pattern: str = "default"
    """How text is split before merging: default, gpt4, digits, marks or scripts (nanochat/tokenizer/patterns.py)."""


@dataclass(frozen=True)
class TokenizerTrainResult:
    """The saved tokenizer. `bytes_per_token` is measured on validation text."""

    path: Path
    hash: str
    vocab_size: int
    documents: int
    characters: int
    bytes_per_token: float
    wall_s: float
    peak_rss_bytes: int


def run(config: TokenizerTrainConfig, paths: Paths) -> TokenizerTrainResult:
    """Train, save into the dataset's folder, print a table and log to the run `tokenizer`.

    Raises ValueError for impossible settings, where possible before reading anything.
    """
    exact = config.vocab_size is not None
    vocab_size = config.vocab_size if config.vocab_size is not None else DEFAULT_VOCAB_SIZE
    check_training(vocab_size, config.split_pattern, config.max_chars, config.doc_cap)
    track = default_track()
    began = time.perf_counter()
    config = config.settled(paths)
    assert config.dataset is not None
    dataset = config.open(paths)
    if not exact:
        vocab_size = VOCAB_SIZES.get(config.dataset.partition(":")[0], DEFAULT_VOCAB_SIZE)
    tokenizer = train_tokenizer(
        documents(dataset, "train"),
        vocab_size,
        pattern=config.split_pattern,
        max_chars=config.max_chars,
        doc_cap=config.doc_cap,
        exact=exact,
        dataset=dataset_key(config.dataset),
    )
    if tokenizer.vocab_size < vocab_size:
        say(
            f"the text yields {tokenizer.vocab_size:,} tokens, fewer than the default of {vocab_size:,}; using them all"
        )
    path = tokenizer.save(tokenizer_folder(config.dataset, paths))
    held_out = [text[: config.doc_cap] for text in islice(documents(dataset, "val"), _SAMPLE_DOCUMENTS)]
    result = TokenizerTrainResult(
        path=path,
        hash=tokenizer.hash,
        vocab_size=tokenizer.vocab_size,
        documents=tokenizer.training["documents"],
        characters=tokenizer.training["characters"],
        bytes_per_token=_bytes_per_token(tokenizer, held_out),
        wall_s=time.perf_counter() - began,
        peak_rss_bytes=hardware.peak_rss_bytes(),
    )
    _log(config, result, paths, track)
    _show(result)
    return result


def _bytes_per_token(tokenizer: Tokenizer, texts: list[str]) -> float:
    tokens = sum(map(len, tokenizer.encode_batch(texts)))
    return sum(len(text.encode()) for text in texts) / max(tokens, 1)


def _log(
    config: TokenizerTrainConfig, result: TokenizerTrainResult, paths: Paths, track: tuple[Tracker, ...]
) -> None:
    with open_metrics(
        paths.metrics("tokenizer"),
        "tokenizer",
        wandb_run=None,
        track=track,
        config=ConfigRow(to_json(config)),
        enabled=True,
        resume=False,
    ) as metrics:
        metrics.log(TokenizerRow(**to_json(result)))
        metrics.log(DoneRow(wall_s=result.wall_s, peak_rss_bytes=result.peak_rss_bytes))


def _show(result: TokenizerTrainResult) -> None:
    table(
        "tokenizer",
        ("", ""),
        (
            ("vocabulary", f"{result.vocab_size:,}"),
            ("hash", result.hash),
            ("learnt from", f"{result.characters:,} characters in {result.documents:,} documents"),
            ("bytes per token on validation text", f"{result.bytes_per_token:.2f}"),
            ("time", f"{result.wall_s:.1f} s"),
            ("peak memory", f"{result.peak_rss_bytes / 2**20:,.0f} MiB"),
        ),
    )
    say(f"saved {result.path}")
