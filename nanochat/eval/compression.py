"""`nanochat tokenizer eval`: bytes per token by domain, compared with GPT-2 and GPT-4."""

from dataclasses import dataclass
from itertools import islice

from nanochat.config import to_json
from nanochat.console import say, table
from nanochat.flags import default_track
from nanochat.metrics import open_metrics
from nanochat.metrics_rows import CompressionRow, ConfigRow
from nanochat.paths import Paths
from nanochat.text.dataset_tokenizer import TokenizedText
from nanochat.text.datasets import documents
from nanochat.tokenizer.bytes_per_token import Comparison, compare, how_to_fetch
from nanochat.tokenizer.eval_texts import EVAL_TEXTS

_DATASET_DOCUMENTS = 200  # of the validation split; only the beginning of each
_DOCUMENT_CHARS = 5000


@dataclass(frozen=True)
class TokenizerEvalConfig(TokenizedText):
    """Measure a dataset's tokenizer on texts of many kinds and on the start of the dataset's validation split."""


@dataclass(frozen=True)
class TokenizerEvalResult:
    """The measured tokenizer and its figures."""

    vocab_size: int
    hash: str
    comparison: Comparison


def run(config: TokenizerEvalConfig, paths: Paths) -> TokenizerEvalResult:
    """Measure, print the table and log it to the run `tokenizer`."""
    track = default_track()
    config = config.settled(paths)
    tokenizer = config.find_tokenizer(paths)
    sample = islice(documents(config.open(paths), "val"), _DATASET_DOCUMENTS)
    texts = {**EVAL_TEXTS, "validation text": "\n".join(text[:_DOCUMENT_CHARS] for text in sample)}
    comparison = compare(tokenizer, texts)
    _show(comparison)
    with open_metrics(
        paths.metrics("tokenizer"),
        "tokenizer-eval",
        wandb_run=None,
        track=track,
        config=ConfigRow(to_json(config)),
        enabled=True,
        resume=True,
    ) as metrics:
        metrics.log(
            CompressionRow(tokenizer.hash, comparison.bytes, comparison.tokenizers, comparison.skipped)
        )
    return TokenizerEvalResult(tokenizer.vocab_size, tokenizer.hash, comparison)


def _show(comparison: Comparison) -> None:
    ours, *peers = comparison.tokenizers
    rows = []
    for domain, size in comparison.bytes.items():
        own = ours.bytes_per_token[domain]
        beside = [(peer.bytes_per_token[domain], own / peer.bytes_per_token[domain]) for peer in peers]
        rows.append(
            [domain, f"{size:,}", f"{own:.2f}", *(f"{other:.2f} ({ratio:.2f})" for other, ratio in beside)]
        )
    rows.append(["vocabulary", "", *(f"{each.vocab_size:,}" for each in comparison.tokenizers)])
    columns = ["domain", "bytes", "ours", *(peer.name for peer in peers)]
    table("UTF-8 bytes per token, more is better (in brackets: ours / theirs)", columns, rows)
    if comparison.skipped:
        say(
            f"skipped {' and '.join(comparison.skipped)}: not in tiktoken's cache; "
            f"to download: {how_to_fetch(comparison.skipped)}"
        )
