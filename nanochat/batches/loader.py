"""The two loaders: batches of rows on the device, made ahead by a thread, each with the state to resume after it.

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
from nanochat.batches.rows import ConversationWindows, PackingReport, RowStream, State, TokenWindows
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


class Loader(Iterator[tuple[Batch, State]]):
    """Endless (batch, state) pairs; made by `pretrain_loader` and `sft_loader`.

    Attributes:
        rows_per_epoch: rows in one pass over the conversations; None for pretraining, whose rows are not
            known before the text is tokenised.
    """

    def __init__(
        self,
        stream: RowStream,
        runtime: Runtime,
        batch_rows: int,
        identity: dict[str, Any],
        store: TokenStore | None = None,
        rows_per_epoch: int | None = None,
    ):
        self.rows_per_epoch = rows_per_epoch
        self._stream, self._runtime, self._batch_rows = stream, runtime, batch_rows
        self._identity, self._store = identity, store
        self._yielded = stream.state()
        self._stopped = False
        self._ready: queue.Queue[tuple[Tensor, Tensor, State] | BaseException] = queue.Queue(PREFETCH)
        self._thread = threading.Thread(target=self._fill, name="loader", daemon=True)
        self._thread.start()

    @property
    def steps_per_epoch(self) -> int | None:
        """Batches (of all processes together) that hold every row of an epoch."""
        if self.rows_per_epoch is None:
            return None
        return -(-self.rows_per_epoch // (self._batch_rows * self._runtime.world_size))

    def __next__(self) -> tuple[Batch, State]:
        item = self._ready.get()
        if isinstance(item, BaseException):
            self._ready.put(item)  # for whoever asks again
            raise item
        inputs, targets, self._yielded = item
        device = self._runtime.device
        batch = Batch(inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True))
        return batch, {**self._yielded, "identity": self._identity}

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

    def _make(self) -> tuple[Tensor, Tensor, State]:
        rows, rank, world = self._batch_rows, self._runtime.rank, self._runtime.world_size
        self._stream.skip(rank * rows)
        inputs, targets = (torch.from_numpy(array) for array in self._stream.take(rows))
        self._stream.skip((world - 1 - rank) * rows)
        if self._runtime.device.type == "cuda":
            inputs, targets = inputs.pin_memory(), targets.pin_memory()
        return inputs, targets, self._stream.state()

    def _offer(self, item: tuple[Tensor, Tensor, State] | BaseException) -> None:
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
    state: State | None = None,
) -> Loader:
    """Rows of the training split, reshuffled in every epoch, tokenised in the background where need be.

    `batch_rows`: rows of this process per batch. `state`: as yielded with the batch to resume after; the
    number of processes and `batch_rows` may have changed since, and files may have been added at the end.

    Raises ValueError for a state of other data or settings; for an empty dataset, at the first batch.
    """
    if state is not None:
        dataset = replace(dataset, train=dataset.train[: state["identity"]["files"]])
    identity = {
        "context": max_seq_len,
        "policy": policy,
        "seed": seed,
        "tokenizer": tokenizer.hash,
        "files": len(dataset.train),
        "data": _digest(
            [(path.name, path.stat().st_size) for path in dataset.train],
            dataset.held_out,
            dataset.text_column,
        ),
    }
    _check_identity(identity, state)
    cores = hardware.usable_cores() // runtime.world_size
    threads = max(1, min(cores // CORES_PER_ENCODER, MOST_ENCODERS))
    store = open_tokens(dataset, tokenizer, runtime.paths, workers=threads)
    source = TokenWindows(store, tokenizer.bos, max_seq_len, policy, seed)
    return Loader(RowStream(source, max_seq_len, state), runtime, batch_rows, identity, store)


def sft_loader(
    conversations: Sequence[Conversation],
    tokenizer: Tokenizer,
    runtime: Runtime,
    *,
    batch_rows: int,
    max_seq_len: int,
    seed: int,
    state: State | None = None,
) -> Loader:
    """Conversations packed by bestfit-pad; only what the assistant must learn to write is a target.

    A conversation longer than the context is truncated to it, and skipped if that leaves nothing to learn, so that
    every row has a target. Conversations in a row see those before them in it. `rows_per_epoch` and
    `steps_per_epoch` tell how long one pass is.

    Raises ValueError for a conversation that cannot be rendered, when nothing is left, or for a state of
    other data or settings.
    """
    rendered = render_conversations(conversations, tokenizer, max_seq_len)
    identity = {
        "context": max_seq_len,
        "policy": "bestfit-pad",
        "seed": seed,
        "tokenizer": tokenizer.hash,
        "data": hashlib.sha256(rendered.ids.data).hexdigest()[:16],
    }
    _check_identity(identity, state)
    source = ConversationWindows(rendered, tokenizer.bos, max_seq_len, seed)
    stream = RowStream(source, max_seq_len, state)
    return Loader(stream, runtime, batch_rows, identity, rows_per_epoch=source.rows_per_epoch)


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _check_identity(now: dict[str, Any], state: State | None) -> None:
    """A position means nothing in other data, or in rows of another make."""
    then = now if state is None else state["identity"]
    for key, value in now.items():
        if then.get(key) != value:
            raise ValueError(
                f"cannot go on in the data: {key} was {then.get(key)!r} and is now {value!r}; "
                "resume with the same, or start a new run"
            )
