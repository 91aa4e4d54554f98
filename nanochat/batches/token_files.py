"""The files that hold a shard's tokens: flat, memory-mapped, written atomically.

A shard consists of pieces of about PIECE_BATCHES * BATCH_CHARS characters, small enough for training to start on
the first piece while the others are being made:

    <stem>-<key>.0000.bin   tokens, uint16 (uint32 for vocabularies above 65,536), BOS before every document
    <stem>-<key>.0000.idx   int64 offsets of its documents, and the end; written after .bin, commits the piece
    <stem>-<key>.json       counts; written last, commits the shard

The key is a hash of the shard's content and format, the text column, the share held out and the version of these
files, and the folder names the tokenizer, so a file is never stale. All files may be deleted at any time; missing or
torn ones are made again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count, groupby, takewhile
from operator import itemgetter
from pathlib import Path

import numpy as np

from nanochat.atomic import remove_temporaries, sha256_of, write_atomic, write_text_atomic
from nanochat.config import from_json, parse_json, to_json
from nanochat.console import warn
from nanochat.text.datasets import Dataset, split_bytes, split_documents
from nanochat.text.readers import TEXT_FORMATS, Counts, DamagedFile, format_of
from nanochat.text.shards import chunked
from nanochat.tokenizer.tokenizer import token_dtype

BATCH_CHARS = 250_000  # encoded at a time
PIECE_BATCHES = 32
GROUP_BYTES = 8_000_000  # of text files per shard: about one piece
_FORMAT = 1
_STEM_BYTES = 80  # of a file's name, which may be as long as the file system allows

Documents = tuple[int, list[str]]
"""(piece, documents)"""
Encoded = tuple[int, np.ndarray, np.ndarray]
"""(piece, tokens with BOS before each document, lengths of the documents)"""
EncodeAll = Callable[[Iterable[Documents]], Iterator[Encoded]]


@dataclass(frozen=True)
class TokenPiece:
    """Consecutive documents: document i is `tokens[offsets[i] : offsets[i + 1]]`, starting with BOS."""

    tokens: np.ndarray  # (tokens,), uint16 or uint32, memory-mapped
    offsets: np.ndarray  # (documents + 1,), int64

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each document, including BOS."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class ShardInfo:
    """The counts of a complete shard."""

    pieces: int
    tokens: int
    counts: Counts = field(default_factory=Counts)


def grouped(files: Sequence[Path]) -> Iterator[tuple[Path, ...]]:
    """The files of each shard, in order.

    A parquet or jsonl file is a shard. Txt and md files, which hold one document each, share shards of up to
    GROUP_BYTES.
    """
    group: list[Path] = []
    room = 0
    for path in files:
        size = path.stat().st_size if format_of(path) in TEXT_FORMATS else GROUP_BYTES + 1
        if group and size > room:
            yield tuple(group)
            group, room = [], 0
        room = (room if group else GROUP_BYTES) - size
        group.append(path)
    if group:
        yield tuple(group)


class CachedShard:
    """One source file (or several small ones) and the files of its training documents in the cache."""

    def __init__(self, dataset: Dataset, paths: tuple[Path, ...], vocab_size: int, directory: Path):
        self._paths = paths
        self.source_bytes = sum(path.stat().st_size for path in paths)
        self.label = paths[0].name + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
        self._dataset, self._directory = dataset, directory
        self._dtype = token_dtype(vocab_size)
        self._info: ShardInfo | None = None

    @property
    def text_bytes(self) -> float:
        """Approximate bytes of text. Opens parquet files, so it is not used when training starts."""
        return split_bytes(self._dataset, "train", self._paths)

    @cached_property
    def _name(self) -> str:
        contents = [(format_of(path), path.suffix.lower(), sha256_of(path)) for path in self._paths]
        parts = [_FORMAT, PIECE_BATCHES, BATCH_CHARS, contents, self._dataset.text_column]
        if self._dataset.held_out:
            parts += ["train", self._dataset.held_out]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
        stem = os.fsencode(self._paths[0].name.split(".")[0])[:_STEM_BYTES].decode(errors="ignore")
        return f"{stem}-{key}"

    @property
    def lock(self) -> Path:
        """The lock file that whoever makes this shard holds."""
        return self._directory / f"{self._name}.lock"

    def _file(self, ending: str) -> Path:
        return self._directory / f"{self._name}.{ending}"

    def info(self) -> ShardInfo | None:
        """The counts if the shard is complete, else None."""
        if self._info is None:
            try:
                self._info = from_json(ShardInfo, parse_json(self._file("json").read_text()))
            except FileNotFoundError:
                pass
            except ValueError:  # torn, or of another version
                self._file("json").unlink(missing_ok=True)
        return self._info

    def load(self, index: int) -> TokenPiece | None:
        """Piece `index`, or None if it is missing or torn; in that case the shard becomes incomplete."""
        try:
            offsets = np.fromfile(self._file(f"{index:04d}.idx"), dtype=np.int64)
            size = os.path.getsize(self._file(f"{index:04d}.bin"))
            whole = len(offsets) > 1 and offsets[0] == 0 and offsets[-1] * self._dtype.itemsize == size
        except FileNotFoundError:
            whole = False
        if whole:
            mapped = np.memmap(self._file(f"{index:04d}.bin"), dtype=self._dtype, mode="r")
            return TokenPiece(np.asarray(mapped), offsets)  # slicing a memmap is ten times slower
        if self._info is not None and index < self._info.pieces:
            self._info = None
            self._file("json").unlink(missing_ok=True)
        return None

    def make(self, encode_all: EncodeAll, on_progress: Callable[[int], object]) -> ShardInfo:
        """Write the missing pieces, then the counts, and return those. The caller must hold the lock.

        `encode_all` encodes batches in order; `on_progress` receives the bytes of text read so far.
        """
        remove_temporaries(self._directory, self._name)
        counts = Counts()
        encoded = encode_all(self._batches(counts, on_progress))
        for piece, batches in groupby(encoded, key=itemgetter(0)):
            self._save(piece, [(tokens.astype(self._dtype), lengths) for _, tokens, lengths in batches])
        pieces = list(takewhile(bool, map(self._size, count())))
        self._info = ShardInfo(len(pieces), sum(pieces), counts)
        write_text_atomic(self._file("json"), json.dumps(to_json(self._info)) + "\n")
        return self._info

    def _batches(self, counts: Counts, on_progress: Callable[[int], object]) -> Iterator[Documents]:
        """(piece, documents) of every batch, without existing pieces."""
        exists, read = False, 0
        for number, batch in enumerate(chunked(self._texts(counts), BATCH_CHARS)):
            piece = number // PIECE_BATCHES
            if number % PIECE_BATCHES == 0:
                exists = self.load(piece) is not None
            if not exists:
                yield piece, batch
            read += sum(len(text.encode()) for text in batch)
            on_progress(read)

    def _texts(self, counts: Counts) -> Iterator[str]:
        """The documents. The rest of a damaged file is skipped with a warning, so that a long run survives."""
        for path in self._paths:
            try:
                yield from split_documents(self._dataset, path, "train", counts)
            except DamagedFile as error:
                counts.damaged += 1
                warn(f"{error}; skipping the rest of it")

    def _save(self, piece: int, batches: list[tuple[np.ndarray, np.ndarray]]) -> None:
        lengths = np.concatenate([lengths for _, lengths in batches])
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        write_atomic(
            self._file(f"{piece:04d}.bin"), lambda file: file.writelines(tokens.data for tokens, _ in batches)
        )
        write_atomic(self._file(f"{piece:04d}.idx"), lambda file: file.write(offsets.data))

    def _size(self, piece: int) -> int:
        """Tokens of a piece, 0 if it does not exist."""
        found = self.load(piece)
        return 0 if found is None else len(found.tokens)
