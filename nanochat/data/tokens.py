"""The token cache: every shard tokenised once, into flat files that are memory-mapped.

A shard becomes pieces of about PIECE_BATCHES * BATCH_CHARS characters, small enough for training to start on
the first one while the others are being made:

    <stem>-<key>.0000.bin   tokens, uint16 (uint32 for a vocabulary beyond 65,536), BOS before every document
    <stem>-<key>.0000.idx   int64 offsets of the documents in it, and the end; written after .bin: its commit
    <stem>-<key>.json       counts; written last: the shard is complete

The folder names the tokenizer, the key the shard's content, the text column, the split and this format, so a
file is never stale. Everything may be deleted at any time. Several processes may use one folder: a shard is
made by whoever has its lock, and read by all as its pieces appear.

Threads, not processes, do the encoding: tiktoken releases the interpreter lock, and threads cost no start-up
and cannot outlive a killed run.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import count, groupby, takewhile
from operator import itemgetter
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from nanochat.atomic import file_lock, remove_temporaries, write_atomic, write_fault, write_text_atomic
from nanochat.config import from_json, to_json
from nanochat.data.datasets import Dataset, Split, split_documents
from nanochat.data.readers import Counts
from nanochat.data.shards import chunked, identity
from nanochat.paths import Paths
from nanochat.tokenizer.tokenizer import Tokenizer

BATCH_CHARS = 1_000_000  # what one thread encodes at a time
PIECE_BATCHES = 8
AHEAD_BYTES = 64 << 20  # of shard files, tokenised ahead of the reader
_FORMAT = 1
_POLL_S = 0.1
_LARGEST_UINT16_VOCAB = 1 << 16


@dataclass(frozen=True)
class TokenPiece:
    """Consecutive documents: document i is `tokens[offsets[i] : offsets[i + 1]]`, beginning with BOS."""

    tokens: np.ndarray  # (tokens,), uint16 or uint32, memory-mapped
    offsets: np.ndarray  # (documents + 1,), int64

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)


@dataclass(frozen=True)
class ShardInfo:
    """What a complete shard holds."""

    pieces: int
    tokens: int
    counts: Counts = field(default_factory=Counts)


def token_dtype(vocab_size: int) -> np.dtype:
    return np.dtype(np.uint16 if vocab_size <= _LARGEST_UINT16_VOCAB else np.uint32)


def open_tokens(
    dataset: Dataset, tokenizer: Tokenizer, paths: Paths, split: Split = "train", *, workers: int = 1
) -> TokenStore:
    """The tokens of a split; nothing is made before it is asked for. `workers`: threads that encode."""
    return TokenStore(dataset, tokenizer, paths.tokens(dataset.name, tokenizer.hash), split, workers)


class TokenStore:
    """The cached pieces of every shard of a split, made on demand and ahead of demand by one thread."""

    def __init__(
        self, dataset: Dataset, tokenizer: Tokenizer, directory: Path, split: Split, workers: int
    ) -> None:
        self._shards = [_Shard(dataset, path, split, tokenizer, directory) for path in dataset.files(split)]
        self._workers = max(workers, 1)
        self._changed = threading.Condition()
        self._order: Sequence[int] = ()  # in which the shards will be read
        self._position = 0  # in that order
        self._stopped = False
        self._fault: BaseException | None = None
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        """Number of shards."""
        return len(self._shards)

    def expect(self, order: Sequence[int], position: int) -> None:
        """Tell in which order the shards will be read, and that the one at `position` comes now."""
        with self._changed:
            self._order, self._position = order, position
            self._changed.notify_all()

    def piece(self, shard: int, index: int) -> TokenPiece | None:
        """A piece, once it is there; None past the shard's last. Raises what kept it from being made, or Closed."""
        while True:
            found = self._shards[shard].load(index)
            if found is not None:
                return found
            info = self._shards[shard].info()
            if info is not None and index >= info.pieces:
                return None
            with self._changed:
                if self._stopped:
                    raise Closed
                if self._fault is not None:
                    raise self._fault
                if shard not in self._order[self._position :]:
                    self._order, self._position = (shard,), 0
                self._start_thread()
                self._changed.wait(_POLL_S)

    def info(self, shard: int) -> ShardInfo | None:
        """Counts of a shard, or None while it is not complete."""
        return self._shards[shard].info()

    def make_all(self, on_progress: Callable[[int], None] = lambda characters: None) -> list[ShardInfo]:
        """Tokenise every shard that is not yet, now; `on_progress` hears the characters read so far."""
        before, infos = 0, []
        for shard in self._shards:
            with file_lock(shard.lock, message=f"another process is tokenising {shard.path.name}; waiting"):
                info = shard.info() or shard.make(self._workers, partial(_report, on_progress, before))
            infos.append(info)
            before += info.counts.characters
            on_progress(before)
        return infos

    def close(self) -> None:
        """End the background work; a shard in the making keeps its finished pieces."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _start_thread(self) -> None:
        if self._thread is None and not self._stopped:
            self._thread = threading.Thread(target=self._work, name="tokenise", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        try:
            while not self._stopped:
                if not any(self._try_to_make(shard) for shard in self._due()):
                    with self._changed:
                        self._changed.wait(_POLL_S)
        except BaseException as error:
            with self._changed:
                self._fault = error
                self._changed.notify_all()

    def _due(self) -> Iterator[_Shard]:
        """Incomplete shards from the one being read to AHEAD_BYTES beyond it."""
        with self._changed:
            order = list(self._order[self._position :])
        ahead = 0
        for place, index in enumerate(order):
            shard = self._shards[index]
            ahead += shard.path.stat().st_size if place else 0
            if ahead > AHEAD_BYTES and place > 1:
                return
            if shard.info() is None:
                yield shard

    def _try_to_make(self, shard: _Shard) -> bool:
        """Whether this process could do it: not where another one is at it."""
        try:
            shard.lock.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(shard.lock)
            lock.acquire(timeout=0)
        except Timeout:
            return False
        except OSError as error:
            raise write_fault(shard.lock, error) from error
        try:
            shard.make(self._workers, self._heartbeat)
        finally:
            lock.release()
        return True

    def _heartbeat(self, characters: int) -> None:
        """Wake readers: a piece may have appeared. Raises Closed to end a shard half-way."""
        with self._changed:
            self._changed.notify_all()
            if self._stopped:
                raise Closed


def _add(on_progress: Callable[[int], None], before: int, characters: int) -> None:
    on_progress(before + characters)


def _report(on_progress: Callable[[int], None], before: int, characters: int) -> None:
    on_progress(before + characters)


class Closed(Exception):  # noqa: N818 - no error
    """The store was closed while somebody waited for a piece or made one."""


class _Shard:
    """One source file and its files in the cache."""

    def __init__(self, dataset: Dataset, path: Path, split: Split, tokenizer: Tokenizer, directory: Path):
        self.path = path
        self._dataset, self._split, self._tokenizer, self._directory = dataset, split, tokenizer, directory
        self._dtype = token_dtype(tokenizer.vocab_size)
        self._info: ShardInfo | None = None

    @cached_property
    def _name(self) -> str:
        parts = [_FORMAT, PIECE_BATCHES, BATCH_CHARS, identity(self.path), self._dataset.text_column]
        if self._dataset.held_out:
            parts += [self._split, self._dataset.held_out]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
        return f"{self.path.name.split('.')[0]}-{key}"

    @property
    def lock(self) -> Path:
        return self._directory / f"{self._name}.lock"

    def _file(self, ending: str) -> Path:
        return self._directory / f"{self._name}.{ending}"

    def info(self) -> ShardInfo | None:
        """The counts if the shard is complete."""
        if self._info is None:
            try:
                self._info = from_json(ShardInfo, json.loads(self._file("json").read_text()))
            except FileNotFoundError:
                pass
            except ValueError:  # torn, or of another version
                self._file("json").unlink(missing_ok=True)
        return self._info

    def load(self, index: int) -> TokenPiece | None:
        """A piece, or None if it is not there or not whole; then the shard counts as incomplete."""
        try:
            offsets = np.fromfile(self._file(f"{index:04d}.idx"), dtype=np.int64)
            size = os.path.getsize(self._file(f"{index:04d}.bin"))
            whole = len(offsets) > 1 and offsets[0] == 0 and offsets[-1] * self._dtype.itemsize == size
        except FileNotFoundError:
            whole = False
        if whole:
            mapped = np.memmap(self._file(f"{index:04d}.bin"), dtype=self._dtype, mode="r")
            return TokenPiece(np.asarray(mapped), offsets)  # slicing a plain array is ten times faster
        if self._info is not None and index < self._info.pieces:
            self._info = None
            self._file("json").unlink(missing_ok=True)
        return None

    def make(self, workers: int, on_progress: Callable[[int], None]) -> ShardInfo:
        """Write the pieces that are not there yet, then the counts. The caller holds the lock."""
        remove_temporaries(self._directory, self._name)
        counts = Counts()
        for piece, batches in groupby(self._encoded(counts, workers, on_progress), key=itemgetter(0)):
            self._save(piece, [(tokens, lengths) for _, tokens, lengths in batches])
        pieces = list(takewhile(bool, map(self._size, count())))
        self._info = ShardInfo(len(pieces), sum(pieces), counts)
        write_text_atomic(self._file("json"), json.dumps(to_json(self._info)) + "\n")
        return self._info

    def _encoded(
        self, counts: Counts, workers: int, on_progress: Callable[[int], None]
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """(piece, tokens, lengths of documents) of every batch in order, but for pieces that are there."""
        pool = ThreadPoolExecutor(workers, thread_name_prefix="encode")
        flying: deque[tuple[int, Future[tuple[np.ndarray, np.ndarray]]]] = deque()
        there = False
        try:
            texts = split_documents(self._dataset, self.path, self._split, counts)
            for number, batch in enumerate(chunked(texts, BATCH_CHARS)):
                piece = number // PIECE_BATCHES
                if number % PIECE_BATCHES == 0:
                    there = self.load(piece) is not None
                if not there:
                    flying.append((piece, pool.submit(_encode, self._tokenizer, batch, self._dtype)))
                while len(flying) > 2 * workers:
                    piece, encoded = flying.popleft()
                    yield piece, *encoded.result()
                on_progress(counts.characters)
            for piece, encoded in flying:
                yield piece, *encoded.result()
                on_progress(counts.characters)
        finally:
            pool.shutdown(cancel_futures=True)

    def _save(self, piece: int, batches: list[tuple[np.ndarray, np.ndarray]]) -> None:
        lengths = np.concatenate([lengths for _, lengths in batches])
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        write_atomic(
            self._file(f"{piece:04d}.bin"), lambda file: file.writelines(tokens.data for tokens, _ in batches)
        )
        write_atomic(self._file(f"{piece:04d}.idx"), lambda file: file.write(offsets.data))

    def _size(self, piece: int) -> int:
        """Tokens of a piece; 0 where there is none."""
        found = self.load(piece)
        return 0 if found is None else len(found.tokens)


def _encode(tokenizer: Tokenizer, batch: list[str], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of all documents, a BOS before each, and how many each has."""
    flat = array("I")
    lengths = np.empty(len(batch), dtype=np.int64)
    for index, ids in enumerate(tokenizer.encode_batch(batch)):
        flat.append(tokenizer.bos)
        flat.fromlist(ids)
        lengths[index] = len(ids) + 1
    return np.frombuffer(flat, dtype=np.uint32).astype(dtype), lengths
