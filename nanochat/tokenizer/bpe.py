"""Training: learns the byte pairs to merge, with rustbpe (docs/adr/0002-tokenizer-trainer.md says why).

The algorithm (in plain Python in tests/tokenizer/test_reference.py): the split pattern cuts the text into chunks;
then repeatedly the most frequent pair of neighbouring tokens, overlaps counted, becomes a token and is replaced
from left to right; ties go to the smaller (left id, right id). So the result is a pure function of the multiset
of chunks: neither threads nor document order change it.
"""

import importlib.metadata
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

import rustbpe

from nanochat.console import ProgressBar, progress
from nanochat.tokenizer.patterns import split_pattern
from nanochat.tokenizer.special import SPECIAL_TOKENS
from nanochat.tokenizer.tokenizer import Tokenizer

_BYTES = 256
# rustbpe counts in 32 bits; no pair occurs more often than there are characters.
_MOST_CHARS = _MOST_TOKENS = 2**31 - 1
# Documents per call of rustbpe: enough for its threads, few enough to bound memory.
_BUFFER_DOCUMENTS = 4096


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    *,
    pattern: str = "default",
    max_chars: int,
    doc_cap: int = 10_000,
    exact: bool = True,
    dataset: str | None = None,
) -> Tokenizer:
    """Learn a vocabulary of `vocab_size` ids, including the nine special tokens.

    `texts` is read once, as a stream, up to `max_chars` characters in all and `doc_cap` per document, so that no
    document dominates. Memory grows only with the number of distinct chunks. If the text gives fewer tokens, the
    vocabulary is smaller, unless the size must be `exact`. `dataset`, the name of the text, is recorded.

    Raises ValueError for an impossible size, an unknown pattern, or text too small for an exact size.
    """
    check_training(vocab_size, pattern, max_chars, doc_cap)
    regex = split_pattern(pattern)
    trainer = rustbpe.Tokenizer()
    with _Bars() as bars, _plain_interrupt():
        sample = _Sample(texts, max_chars, doc_cap, bars.read)
        trainer.train_from_iterator(
            iter(sample), vocab_size - len(SPECIAL_TOKENS), buffer_size=_BUFFER_DOCUMENTS, pattern=regex
        )
    ranks = {bytes(token): rank for token, rank in trainer.get_mergeable_ranks()}
    reached = len(ranks) + len(SPECIAL_TOKENS)
    if exact and reached < vocab_size:
        raise ValueError(
            f"the text ({sample.characters:,} characters) gives only {reached:,} tokens, not {vocab_size:,}: "
            f"give more text or set --vocab-size {reached} or less"
        )
    facts = {
        "trainer": f"rustbpe {importlib.metadata.version('rustbpe')}",
        "split_pattern": pattern,
        "dataset": dataset,
        "documents": sample.documents,
        "characters": sample.characters,
        "bytes": sample.bytes,
        "doc_cap": doc_cap,
        "max_chars": max_chars,
    }
    return Tokenizer(ranks, regex, facts)


@contextmanager
def _plain_interrupt() -> Iterator[None]:
    """Ctrl-C while rustbpe logs a line leaves it as the cause of a SystemError, which this turns back."""
    try:
        yield
    except SystemError as error:
        if isinstance(error.__cause__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise


def check_training(vocab_size: int, pattern: str, max_chars: int, doc_cap: int) -> None:
    """Raise ValueError for settings that cannot work with any text."""
    smallest = _BYTES + len(SPECIAL_TOKENS)
    if vocab_size < smallest:
        raise ValueError(
            f"a vocabulary of {vocab_size} is too small: bytes and special tokens take {smallest}"
        )
    if vocab_size > _MOST_TOKENS:
        raise ValueError(f"a vocabulary of {vocab_size} is too large: at most {_MOST_TOKENS:,} tokens")
    if not 1 <= max_chars <= _MOST_CHARS:
        raise ValueError(f"--max-chars {max_chars} must lie between 1 and {_MOST_CHARS:,}")
    if doc_cap < 1:
        raise ValueError(f"--doc-cap {doc_cap} must be at least 1")
    split_pattern(pattern)


class _Sample:
    """The training text, capped per document and in total; counts documents and characters."""

    def __init__(self, texts: Iterable[str], max_chars: int, doc_cap: int, report: Callable[[int], object]):
        self._texts, self._max_chars, self._doc_cap, self._report = texts, max_chars, doc_cap, report
        self.documents = self.characters = self.bytes = 0

    def __iter__(self) -> Iterator[str]:
        for text in self._texts:
            data = text[: min(self._doc_cap, self._max_chars - self.characters)]
            try:
                self.bytes += len(data.encode())
            except UnicodeEncodeError:
                # A lone surrogate (possible in jsonl) is not a character; replace it as the encoder does.
                data = data.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
                self.bytes += len(data.encode())
            self.documents += 1
            self.characters += len(data)
            self._report(self.characters)
            yield data
            if self.characters >= self._max_chars:
                return


class _Bars(logging.Handler):
    """A progress bar for reading, then one for merging, driven by rustbpe's log lines."""

    def __init__(self) -> None:
        super().__init__()
        self._logger = logging.getLogger("rustbpe")
        self._shown = ExitStack()
        self._merging: ProgressBar | None = None

    def __enter__(self) -> "_Bars":
        self._reading = self._shown.enter_context(progress("reading text", None, unit="chars"))
        self._before = self._logger.level, self._logger.propagate
        self._logger.setLevel(logging.INFO)
        self._logger.propagate = False
        self._logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        self._logger.level, self._logger.propagate = self._before
        self._shown.close()

    def read(self, characters: int) -> None:
        """Update the number of characters read."""
        self._reading.update(characters)

    def emit(self, record: logging.LogRecord) -> None:
        """Parse a line like "Progress: 7% (1/14 merges) - Last merge: …"."""
        found = re.match(r"Progress: (\d+)%", record.getMessage())
        if found and self._merging is None:
            self._shown.close()
            self._merging = self._shown.enter_context(progress("learning merges", 100, unit="%"))
        if found and self._merging is not None:
            self._merging.update(float(found[1]))
