"""Training: which byte pairs to merge, learnt by rustbpe (docs/adr/0002-tokenizer-trainer.md tells why).

The rule, which tests/tokenizer/reference.py spells out in plain Python: text is cut by the split pattern;
then the pair of neighbouring tokens that occurs most often, overlaps counted, becomes a token, and is
replaced from the left; of equally frequent pairs the one with the smaller (left id, right id) is taken.
So the result is a pure function of the multiset of chunks: neither threads nor document order change it.
"""

import importlib.metadata
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import rustbpe

from nanochat.console import progress
from nanochat.tokenizer.patterns import split_pattern
from nanochat.tokenizer.special import SPECIAL_TOKENS
from nanochat.tokenizer.tokenizer import Tokenizer

_BYTES = 256
# Documents handed to rustbpe at a time: enough for its threads, few enough to bound memory.
_BUFFER_DOCUMENTS = 4096


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    *,
    pattern: str = "default",
    max_chars: int,
    doc_cap: int = 10_000,
) -> Tokenizer:
    """Learns a vocabulary of `vocab_size` ids, the nine special tokens among them.

    `texts` is read once, as a stream, until `max_chars` characters are taken, at most `doc_cap` of each
    document: no document or site can dominate. Memory grows with the number of distinct chunks only.

    Raises ValueError for an impossible size, an unknown pattern, or text too small for so many tokens.
    """
    smallest = _BYTES + len(SPECIAL_TOKENS)
    if vocab_size < smallest:
        raise ValueError(
            f"a vocabulary of {vocab_size} is too small: bytes and special tokens take {smallest}"
        )
    if max_chars < 1 or doc_cap < 1:
        raise ValueError(f"max_chars ({max_chars}) and doc_cap ({doc_cap}) must be at least 1")
    regex = split_pattern(pattern)
    sample = _Sample(texts, max_chars, doc_cap)
    trainer = rustbpe.Tokenizer()
    with _merge_progress():
        trainer.train_from_iterator(
            iter(sample), vocab_size - len(SPECIAL_TOKENS), buffer_size=_BUFFER_DOCUMENTS, pattern=regex
        )
    ranks = {bytes(token): rank for token, rank in trainer.get_mergeable_ranks()}
    reached = len(ranks) + len(SPECIAL_TOKENS)
    if reached < vocab_size:
        raise ValueError(
            f"the text ({sample.characters:,} characters) gives only {reached:,} tokens, not {vocab_size:,}: "
            f"give more text or set --vocab-size {reached} or less"
        )
    facts = {
        "trainer": f"rustbpe {importlib.metadata.version('rustbpe')}",
        "split_pattern": pattern,
        "documents": sample.documents,
        "characters": sample.characters,
        "bytes": sample.bytes,
        "doc_cap": doc_cap,
        "max_chars": max_chars,
    }
    return Tokenizer(ranks, regex, facts)


class _Sample:
    """The text to learn from, capped per document and in all; counts what it gave and shows how far it is."""

    def __init__(self, texts: Iterable[str], max_chars: int, doc_cap: int):
        self._texts, self._max_chars, self._doc_cap = texts, max_chars, doc_cap
        self.documents = self.characters = self.bytes = 0

    def __iter__(self) -> Iterator[str]:
        with progress("reading text for the tokenizer", None, unit="char") as bar:
            for text in self._texts:
                text = text[: min(self._doc_cap, self._max_chars - self.characters)]
                # A lone surrogate (jsonl may hold them) is no character: read it as the encoder will.
                data = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
                self.documents += 1
                self.characters += len(data)
                self.bytes += len(data.encode())
                yield data
                bar.update(self.characters)
                if self.characters >= self._max_chars:
                    return


class _MergeLog(logging.Handler):
    """Turns rustbpe's log lines ("Progress: 7% (1/14 merges) …") into a progress bar."""

    def __init__(self, bar):
        super().__init__(logging.INFO)
        self._bar = bar

    def emit(self, record: logging.LogRecord) -> None:
        if found := re.match(r"Progress: (\d+)%", record.getMessage()):
            self._bar.update(float(found[1]))


@contextmanager
def _merge_progress() -> Iterator[None]:
    logger = logging.getLogger("rustbpe")
    before = logger.level, logger.propagate
    with progress("learning merges", 100, unit="%") as bar:
        handler = _MergeLog(bar)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.level, logger.propagate = before
