"""The tokenizer: byte-level BPE ranks, a split pattern and special tokens, encoding with tiktoken.

On disk it is two text files: `tok<V>.tiktoken`, one "base64(token) rank" line per token, and `tok<V>.json` with
the pattern, the special tokens, the hash of all three and facts about the training.
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import regex
import tiktoken

from nanochat.atomic import write_text_atomic
from nanochat.config import from_json, parse_json
from nanochat.tokenizer.special import BOS, SPECIAL_TOKENS
from nanochat.tokenizer.stream import StreamDecoder

_LARGEST_UINT16_VOCAB = 1 << 16
_RETRAIN = "train it again with `nanochat tokenizer train`"

# tiktoken's regex engine panics on a run of a million blanks, so longer runs are cut. (Python's \s includes every
# character of the engine's.)
_MAX_BLANKS = 500_000
_PROBE = bytes(range(128)).decode()  # every ASCII character, to try a pattern on
_LONG_BLANKS = re.compile(rf"(?<!\s)\s{{{_MAX_BLANKS + 1},}}")


class Tokenizer:
    """Text to ids and back. Immutable; cheap to pickle to worker processes.

    Attributes:
        vocab_size: number of ids, including the nine special tokens (the last nine ids).
        special_ids: the id of each special token by its name, in the order of the ids.
        special_names: the names by the ids.
        hash: 16 hex digits that identify the encoding: tokenizers of equal hash encode every text alike.
        pattern: the regular expression that cuts text before merging.
        training: facts about the training run (text, limits, versions), not part of the hash.
    """

    def __init__(self, ranks: Mapping[bytes, int], pattern: str, training: Mapping[str, Any] | None = None):
        """Args: ranks: token bytes to merge rank, 0 … n-1 without a gap, including all 256 single bytes.

        Raises ValueError for other ranks, or a pattern that cannot cut text.
        """
        tokens = sorted(ranks, key=ranks.__getitem__)
        if [ranks[token] for token in tokens] != list(range(len(tokens))):
            raise ValueError("the ranks of a tokenizer must run from 0 without a gap or a repetition")
        if not all(bytes([byte]) in ranks for byte in range(256)):
            raise ValueError("a byte-level tokenizer must hold all 256 single bytes")
        _check_pattern(pattern)
        self.pattern = pattern
        self.training = dict(training or {})
        self.vocab_size = len(tokens) + len(SPECIAL_TOKENS)
        self.hash = _hash(tokens, pattern)
        self._tokens = tokens
        self.special_ids: Mapping[str, int] = {name: len(tokens) + i for i, name in enumerate(SPECIAL_TOKENS)}
        self.special_names: Mapping[int, str] = {token: name for name, token in self.special_ids.items()}
        self.bos = self.special_ids[BOS]
        self._encoding = tiktoken.Encoding(
            name=f"nanochat-{self.hash}",
            pat_str=pattern,
            mergeable_ranks=dict(ranks),
            special_tokens=dict(self.special_ids),
        )

    def __repr__(self) -> str:
        return f"Tokenizer(vocab_size={self.vocab_size}, hash={self.hash!r})"

    def special(self, name: str) -> int:
        """The id of a special token, for example `<|user_start|>`."""
        if name not in self.special_ids:
            raise ValueError(f"unknown special token {name!r}: there are {', '.join(SPECIAL_TOKENS)}")
        return self.special_ids[name]

    def encode(self, text: str) -> list[int]:
        """Ids of ordinary text. Names of special tokens in `text` are encoded as plain text.

        A lone surrogate, which is not a character, is encoded as U+FFFD.
        """
        if len(text) <= _MAX_BLANKS:
            return self._encoding.encode_ordinary(text)
        pieces = map(self._encoding.encode_ordinary, _without_long_blanks(text))
        return list(chain.from_iterable(pieces))

    def encode_array(self, text: str) -> np.ndarray:
        """`encode` as uint32 of shape (tokens,): faster, and threads do not block each other."""
        try:
            if len(text) <= _MAX_BLANKS:
                return self._encoding.encode_to_numpy(text, disallowed_special=())
        except UnicodeEncodeError:  # a lone surrogate
            pass
        return np.array(self.encode(text), dtype=np.uint32)

    def encode_batch(self, texts: Sequence[str], threads: int = 1) -> list[list[int]]:
        """`encode` of each text, on `threads` threads (tiktoken releases the interpreter lock)."""
        if threads <= 1:
            return [self.encode(text) for text in texts]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(self.encode, texts))

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of `ids`; special tokens give their names. Raises ValueError for an id outside the vocabulary."""
        ids = list(ids)
        try:
            return self._encoding.decode_bytes(ids)
        except (KeyError, OverflowError):
            unknown = next(i for i in ids if not 0 <= i < self.vocab_size)
            raise ValueError(f"id {unknown} is not in this vocabulary of {self.vocab_size}") from None

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; invalid UTF-8 becomes U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def stream(self) -> StreamDecoder:
        """A decoder for tokens that arrive one by one."""
        return StreamDecoder(self._encoding.decode_single_token_bytes)

    def token_bytes(self) -> np.ndarray:
        """The number of bytes of each id: int32 of shape (vocab_size,), 0 for special tokens."""
        return np.array([len(token) for token in self._tokens] + [0] * len(SPECIAL_TOKENS), dtype=np.int32)

    def save(self, directory: Path) -> Path:
        """Write both files into `directory` (made if missing) and return the rank file's path.

        The json is written last: a rank file without a json of its hash is not a tokenizer. Raises EnvironmentFault
        if the folder cannot be written.
        """
        path = directory / f"tok{self.vocab_size}.tiktoken"
        lines = (f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(self._tokens))
        about = {
            "vocab_size": self.vocab_size,
            "hash": self.hash,
            "pattern": self.pattern,
            "special_tokens": list(SPECIAL_TOKENS),
            "training": self.training,
        }
        write_text_atomic(path, "".join(lines))
        write_text_atomic(path.with_suffix(".json"), json.dumps(about, indent=2, ensure_ascii=False) + "\n")
        return path


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest unsigned integer type that holds every id of such a vocabulary."""
    return np.dtype(np.uint16 if vocab_size <= _LARGEST_UINT16_VOCAB else np.uint32)


def _check_pattern(pattern: str) -> None:
    """Raise ValueError for a pattern that tiktoken cannot use: it panics at an empty match.

    A panic is not an Exception and prints a trace, so Python's `regex`, which has the same syntax, checks first.
    """
    try:
        empty = any(not match.group() for match in regex.finditer(pattern, _PROBE, regex.VERSION1))
    except (regex.error, TypeError) as error:
        raise ValueError(f"its pattern is not a regular expression: {error}") from None
    if empty:
        raise ValueError(f"its pattern {pattern[:100]!r} matches the empty text")


def _without_long_blanks(text: str) -> list[str]:
    """`text` in pieces that tiktoken can encode, cut within long runs of blanks."""
    cuts = [
        cut
        for run in _LONG_BLANKS.finditer(text)
        for cut in range(run.start() + _MAX_BLANKS, run.end(), _MAX_BLANKS)
    ]
    return [text[start:stop] for start, stop in pairwise([0, *cuts, len(text)])]


def _hash(tokens: Sequence[bytes], pattern: str) -> str:
    """16 hex digits over all that determines the encoding; lengths delimit the parts."""
    digest = hashlib.sha256()
    for part in (pattern.encode(), *tokens, *(name.encode() for name in SPECIAL_TOKENS)):
        digest.update(len(part).to_bytes(4, "little") + part)
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class TokenizerFacts:
    """The json beside a rank file."""

    hash: str
    pattern: str
    special_tokens: tuple[str, ...]
    training: dict[str, Any]


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a `.tiktoken` file and the `.json` next to it.

    Raises ValueError if either is missing or damaged, or they do not belong together.
    """
    try:
        about = from_json(
            TokenizerFacts, parse_json(path.with_suffix(".json").read_bytes()), ignore_unknown=True
        )
        ranks = parse_ranks(path.read_text(encoding="ascii"))
        tokens = sorted(ranks, key=ranks.__getitem__)
        if (_hash(tokens, about.pattern), about.special_tokens) != (about.hash, SPECIAL_TOKENS):
            raise ValueError("its json states another hash")
        return Tokenizer(ranks, about.pattern, about.training)
    except FileNotFoundError as error:
        raise ValueError(f"no tokenizer at {error.filename}: {_RETRAIN}") from None
    except ValueError as error:
        raise ValueError(f"damaged tokenizer {path} ({error}): {_RETRAIN}") from None


def parse_ranks(text: str) -> dict[bytes, int]:
    """Parse the ranks of a `.tiktoken` file. Raises ValueError naming the first malformed line."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            token, rank = line.split(" ")
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise ValueError(f"line {number} is not `base64 rank`") from None
    return ranks
