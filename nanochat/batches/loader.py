"""The two loaders: batches of rows on the device, made ahead by a thread, each with the position to resume after it.

Row order does not depend on the number of processes: global batch i is rows
[i * world * batch_rows, (i + 1) * world * batch_rows) of one endless stream, and process r takes the r-th
part of it. Every process derives the whole stream's plan and gathers only its own rows.
"""

from __future__ import annotations

import hashlib
import json
import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nanochat import hardware
from nanochat.batches.packing import PRETRAIN_POLICY, Policy
from nanochat.batches.position import DataIdentity, DataPosition, RowPosition, check_identity
from nanochat.batches.rows import ConversationWindows, PackingReport, RowStream, TokenWindows
from nanochat.batches.token_cache import TokenStore, open_tokens
from nanochat.conversations.rendering import render_conversations
from nanochat.runtime import Runtime
from nanochat.text.datasets import Dataset
from nanochat.tokenizer.chat_format import Conversation
from nanochat.tokenizer.tokenizer import Tokenizer

PREFETCH = 4  # batches
CORES_PER_ENCODER = 4  # the others are left to training
MOST_ENCODERS = 8
_POLL_S = 0.1


@dataclass
class Batch:
    """One process's rows, on its device. A target of -1 counts for nothing."""

    inputs_BT: Tensor  # int64
    targets_BT: Tensor  # int64


class Loader(Iterator[tuple[Batch, DataPosition]]):
    """Endless (batch, position) pairs; made by `pretrain_loader` and `sft_loader`.

    Attributes:
        rows_per_epoch: rows in one pass over the conversations; None for pretraining, whose rows are not
            known before the text is tokenised.
    """

    def __init__(
        self,
        stream: RowStream,
        runtime: Runtime,
        batch_rows: int,
        identity: DataIdentity,
        store: TokenStore | None = None,
        rows_per_epoch: int | None = None,
    ):
        self.rows_per_epoch = rows_per_epoch
        self._stream, self._runtime, self._batch_rows = stream, runtime, batch_rows
        self._identity, self._store = identity, store
        self._yielded = stream.position()
        self._stopped = False
        self._ready: queue.Queue[tuple[Tensor, Tensor, RowPosition] | BaseException] = queue.Queue(PREFETCH)
        self._thread = threading.Thread(target=self._fill, name="loader", daemon=True)
        self._thread.start()

    @property
    def steps_per_epoch(self) -> int | None:
        """Batches (of all processes together) that hold every row of an epoch."""
        if self.rows_per_epoch is None:
            return None
        return -(-self.rows_per_epoch // (self._batch_rows * self._runtime.world_size))

    def __next__(self) -> tuple[Batch, DataPosition]:
        item = self._ready.get()
        if isinstance(item, BaseException):
            self._ready.put(item)  # for whoever asks again
            raise item
        inputs, targets, self._yielded = item
        device = self._runtime.device
        batch = Batch(inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True))
        return batch, DataPosition(self._identity, self._yielded)

    def report(self) -> PackingReport:
        """What became of the tokens up to the last batch handed out, over all processes."""
        return self._stream.report(self._yielded)

    def close(self) -> None:
        """End the background threads."""
        self._stopped = True
        if self._store is not None:
            self._store.close()
        with suppress(queue.Empty):
            while True:
                self._ready.get_nowait()  # the thread may be waiting for room
        self._thread.join()

    def _fill(self) -> None:
        device = self._runtime.device
        try:
            # A new thread starts on GPU 0; pinning there would open a context on a neighbour's GPU.
            with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
                while not self._stopped:
                    self._offer(self._make())
        except BaseException as error:
            self._offer(error)

    def _make(self) -> tuple[Tensor, Tensor, RowPosition]:
        rows, rank, world = self._batch_rows, self._runtime.rank, self._runtime.world_size
        self._stream.skip(rank * rows)
        inputs, targets = (torch.from_numpy(array) for array in self._stream.take(rows))
        self._stream.skip((world - 1 - rank) * rows)
        if self._runtime.device.type == "cuda":
            inputs, targets = inputs.pin_memory(), targets.pin_memory()
        return inputs, targets, self._stream.position()

    def _offer(self, item: tuple[Tensor, Tensor, RowPosition] | BaseException) -> None:
        while not self._stopped:
            try:
                return self._ready.put(item, timeout=_POLL_S)
            except queue.Full:
                continue


def pretrain_loader(
    dataset: Dataset,
    tokenizer: Tokenizer,
    runtime: Runtime,
    *,
    batch_rows: int,
    max_seq_len: int,
    policy: Policy = PRETRAIN_POLICY,
    seed: int,
    position: DataPosition | None = None,
) -> Loader:
    """Rows of the training split, reshuffled in every epoch, tokenised in the background where need be.

    `batch_rows`: rows of this process per batch. `position`: as yielded with the batch to resume after;
    the number of processes and `batch_rows` may have changed since, and files may have been added at the end.

    Raises ValueError for a position in other data or of other settings; for an empty dataset, at the first batch.
    """
    if position is not None:
        dataset = replace(dataset, train=dataset.train[: position.identity.files])
    identity = DataIdentity(
        max_seq_len=max_seq_len,
        policy=policy,
        seed=seed,
        tokenizer=tokenizer.hash,
        data=_digest(
            [(path.name, path.stat().st_size) for path in dataset.train],
            dataset.held_out,
            dataset.text_column,
        ),
        files=len(dataset.train),
    )
    check_identity(identity, position)
    cores = hardware.usable_cores() // runtime.world_size
    threads = max(1, min(cores // CORES_PER_ENCODER, MOST_ENCODERS))
    store = open_tokens(dataset, tokenizer, runtime.paths, workers=threads)
    source = TokenWindows(store, tokenizer.bos, max_seq_len, policy, seed)
    stream = RowStream(source, max_seq_len, position.row if position else None)
    return Loader(stream, runtime, batch_rows, identity, store)


def sft_loader(
    conversations: Sequence[Conversation],
    tokenizer: Tokenizer,
    runtime: Runtime,
    *,
    batch_rows: int,
    max_seq_len: int,
    seed: int,
    position: DataPosition | None = None,
) -> Loader:
    """Conversations packed by bestfit-pad; only what the assistant must learn to write is a target.

    A conversation longer than the context is truncated to it, and skipped if that leaves nothing to learn, so that
    every row has a target. Conversations in a row see those before them in it. `rows_per_epoch` and
    `steps_per_epoch` tell how long one pass is.

    Raises ValueError for a conversation that cannot be rendered, when nothing is left, or for a position
    in other data or of other settings.
    """
    rendered = render_conversations(conversations, tokenizer, max_seq_len)
    identity = DataIdentity(
        max_seq_len=max_seq_len,
        policy="bestfit-pad",
        seed=seed,
        tokenizer=tokenizer.hash,
        data=hashlib.sha256(rendered.ids.data).hexdigest()[:16],
    )
    check_identity(identity, position)
    source = ConversationWindows(rendered, tokenizer.bos, max_seq_len, seed)
    stream = RowStream(source, max_seq_len, position.row if position else None)
    return Loader(stream, runtime, batch_rows, identity, rows_per_epoch=source.rows_per_epoch)


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
