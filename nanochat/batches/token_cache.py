"""The token cache: every shard is tokenised once, before or during training.

Several processes may share a cache: whichever holds a shard's lock makes it, and all read its pieces as they
appear (format: `token_files`). Encoding runs in threads, not processes: tiktoken releases the interpreter lock,
and threads start instantly and cannot outlive a killed run.
"""

from __future__ import annotations

import pickle
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
from filelock import FileLock, Timeout

from nanochat.atomic import write_fault
from nanochat.batches.token_files import CachedShard, Documents, Encoded, ShardInfo, TokenPiece, grouped
from nanochat.console import say
from nanochat.paths import Paths
from nanochat.text.datasets import Dataset
from nanochat.tokenizer.tokenizer import Tokenizer

AHEAD_BYTES = 64 << 20  # shard files tokenised ahead of the reader
_POLL_S = 0.1
_SILENCE_S = 5.0  # of waiting before a message says so
_FLYING = 8  # batches in flight per worker


def open_tokens(dataset: Dataset, tokenizer: Tokenizer, paths: Paths, *, workers: int = 1) -> TokenStore:
    """The tokens of the training split; shards are tokenised on demand. `workers`: number of encoding threads."""
    directory = paths.tokens(dataset.name, tokenizer.hash)
    shards = [
        CachedShard(dataset, files, tokenizer.vocab_size, directory) for files in grouped(dataset.train)
    ]
    return TokenStore(shards, Encoder(tokenizer, workers))


class TokenStore:
    """The cached pieces of every shard; a background thread makes them, ahead of the reader."""

    def __init__(self, shards: Sequence[CachedShard], encoder: Encoder):
        self._shards, self._encoder = shards, encoder
        self._changed = threading.Condition()
        self._order: Sequence[int] = ()  # reading order of the shards
        self._position = 0  # of the reader in `_order`
        self._stopped = False
        self._fault: BaseException | None = None
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        """Number of shards."""
        return len(self._shards)

    def expect(self, order: Sequence[int], position: int) -> None:
        """Announce the order in which shards will be read, and the reader's position in it."""
        with self._changed:
            self._order, self._position = order, position
            self._changed.notify_all()

    def piece(self, shard: int, index: int) -> TokenPiece | None:
        """Piece `index` of a shard, waiting until it exists; None past the shard's last piece.

        Raises the error of the background thread if that failed, Closed if the store was closed.
        """
        say_at = time.monotonic() + _SILENCE_S
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
            if time.monotonic() > say_at:
                say(f"waiting for tokens of {self._shards[shard].label}")
                say_at = float("inf")

    def info(self, shard: int) -> ShardInfo | None:
        """The counts of a shard, or None while it is incomplete."""
        return self._shards[shard].info()

    def make_all(self, on_progress: Callable[[float], object] = lambda read: None) -> list[ShardInfo]:
        """Tokenise every missing shard; `on_progress` receives the approximate bytes of text done.

        Returns the counts of all shards. Raises Closed if the store is closed meanwhile.
        """
        read = [0.0] * len(self._shards)

        def report(index: int, count: float) -> None:
            with self._changed:
                if self._stopped:
                    raise Closed
                read[index] = max(read[index], count)
                on_progress(sum(read))

        def make(index: int) -> ShardInfo:
            shard, waiting = self._shards[index], False
            while not self._try_to_make(shard, partial(report, index)):
                if not waiting:
                    say(f"another process is tokenising {shard.label}; waiting")
                    waiting = True
                with self._changed:
                    if self._stopped:
                        raise Closed
                    self._changed.wait(_POLL_S)
            info = shard.info()
            assert info is not None
            report(index, shard.text_bytes)
            return info

        # Two makers: while one writes its shard's last piece, the other keeps the encoders busy.
        with ThreadPoolExecutor(min(self._encoder.workers, 2), thread_name_prefix="make") as makers:
            try:
                return list(makers.map(make, range(len(self._shards))))
            except BaseException:
                self._stopped = True
                raise

    def close(self) -> None:
        """Stop the background thread. An unfinished shard keeps its finished pieces."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._encoder.close()

    def _start_thread(self) -> None:
        if self._thread is None and not self._stopped:
            self._thread = threading.Thread(target=self._work, name="tokenise", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        try:
            while not self._stopped:
                if not any(self._try_to_make(shard, self._heartbeat) for shard in self._due()):
                    with self._changed:
                        self._changed.wait(_POLL_S)
        except BaseException as error:
            with self._changed:
                self._fault = error
                self._changed.notify_all()

    def _due(self) -> Iterator[CachedShard]:
        """Incomplete shards, from the reader's to AHEAD_BYTES beyond it."""
        with self._changed:
            order = list(self._order[self._position :])
        ahead = 0
        for place, index in enumerate(order):
            shard = self._shards[index]
            ahead += shard.source_bytes if place else 0
            if ahead > AHEAD_BYTES and place > 1:
                return
            if shard.info() is None:
                yield shard

    def _try_to_make(self, shard: CachedShard, on_progress: Callable[[int], object]) -> bool:
        """Make a shard unless it is complete. Returns False if another process holds its lock."""
        try:
            shard.lock.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(shard.lock)
            lock.acquire(timeout=0)
        except Timeout:
            return False
        except OSError as error:
            raise write_fault(shard.lock, error) from error
        try:
            if shard.info() is None:
                shard.make(self._encoder.map, on_progress)
        finally:
            lock.release()
        return True

    def _heartbeat(self, read: int) -> None:
        """Wake readers, since a piece may have appeared. Raises Closed to abort the shard."""
        with self._changed:
            self._changed.notify_all()
            if self._stopped:
                raise Closed


class Closed(Exception):  # noqa: N818 - no error
    """The store was closed while a piece was awaited or made."""


class Encoder:
    """Encodes batches of texts on several threads, each with its own copy of the tokenizer.

    With a shared tokenizer, every thread but its first user is 1.4 times slower (measured), because the
    regular-expression engine reserves its fast scratch space for the first user.
    """

    def __init__(self, tokenizer: Tokenizer, workers: int):
        self._pickled = pickle.dumps(tokenizer)
        self._own = threading.local()
        self.workers = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="encode") if workers > 1 else None

    def map(self, batches: Iterable[Documents]) -> Iterator[Encoded]:
        """The encoded batches, in order; reads a bounded number of batches ahead."""
        if self._pool is None:
            yield from map(self._encode, batches)
            return
        flying: deque[Future[Encoded]] = deque()
        try:
            for batch in batches:
                flying.append(self._pool.submit(self._encode, batch))
                if len(flying) > _FLYING * self.workers:
                    yield flying.popleft().result()
            while flying:
                yield flying.popleft().result()
        finally:
            for future in flying:
                future.cancel()

    def close(self) -> None:
        """Stop the threads."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _encode(self, batch: Documents) -> Encoded:
        piece, texts = batch
        tokenizer = self._tokenizer()
        documents = [tokenizer.encode_array(text) for text in texts]
        bos = np.array([tokenizer.bos], dtype=np.uint32)
        lengths = np.array([len(tokens) + 1 for tokens in documents], dtype=np.int64)
        return piece, np.concatenate([part for tokens in documents for part in (bos, tokens)]), lengths

    def _tokenizer(self) -> Tokenizer:
        """This thread's copy."""
        try:
            return self._own.tokenizer
        except AttributeError:
            self._own.tokenizer = pickle.loads(self._pickled)
            return self._own.tokenizer
