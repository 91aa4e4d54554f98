"""The two loaders: each step's rows on the device, prefetched by a thread, with the position to resume from.

The rows of a step and their order do not depend on the number of processes: step i is rows [i * R, (i + 1) * R) of one
endless stream, and process r of W takes rows R * r // W to R * (r + 1) // W of the step, in micro-batches. Every
process plans the whole stream but gathers only its own rows.
"""

from __future__ import annotations

import hashlib
import json
import queue
import threading
from collections.abc import Iterator
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
from nanochat.conversations.rendering import RenderedConversations
from nanochat.runtime import Runtime
from nanochat.text.datasets import Dataset
from nanochat.tokenizer.tokenizer import Tokenizer

PREFETCH = 4  # steps
CORES_PER_ENCODER = 4  # the rest are left for training
MOST_ENCODERS = 8
_POLL_S = 0.1


@dataclass
class Batch:
    """A micro-batch: rows of one process, on its device. A target of -1 is ignored."""

    inputs_BT: Tensor  # int64
    targets_BT: Tensor  # int64


_Rows = list[tuple[Tensor, Tensor]]  # inputs and targets of micro-batches, on the CPU


class Loader(Iterator[tuple[list[Batch], DataPosition]]):
    """Endless (micro-batches of a step, position) pairs; created by `pretrain_loader` and `sft_loader`.

    Attributes:
        step_tokens: targets per step, padding included, over all processes.
        rows_per_epoch: rows in one pass over the conversations; None for pretraining, whose rows are not
            known before the text is tokenised.
    """

    def __init__(
        self,
        stream: RowStream,
        runtime: Runtime,
        step_rows: int,
        micro_rows: int,
        identity: DataIdentity,
        store: TokenStore | None = None,
        rows_per_epoch: int | None = None,
    ):
        self.rows_per_epoch = rows_per_epoch
        self.step_tokens = step_rows * stream.max_seq_len
        self._stream, self._runtime = stream, runtime
        self._step_rows, self._micro_rows = step_rows, micro_rows
        self._identity, self._store = identity, store
        self._yielded = stream.position()
        self._stopped = False
        self._ready: queue.Queue[tuple[_Rows, RowPosition] | BaseException] = queue.Queue(PREFETCH)
        self._thread = threading.Thread(target=self._fill, name="loader", daemon=True)
        self._thread.start()

    def __next__(self) -> tuple[list[Batch], DataPosition]:
        item = self._ready.get()
        if isinstance(item, BaseException):
            self._ready.put(item)  # for the next call
            raise item
        rows, self._yielded = item
        device = self._runtime.device
        batches = [
            Batch(inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True))
            for inputs, targets in rows
        ]
        return batches, DataPosition(self._identity, self._yielded)

    def report(self) -> PackingReport:
        """How many tokens were used, cropped and padded up to the last batch returned, over all processes."""
        return self._stream.report(self._yielded)

    def close(self) -> None:
        """Stop the background threads."""
        self._stopped = True
        if self._store is not None:
            self._store.close()
        with suppress(queue.Empty):
            while True:
                self._ready.get_nowait()  # the thread may be waiting for space
        self._thread.join()

    def _fill(self) -> None:
        device = self._runtime.device
        try:
            # A new thread starts on GPU 0; pinning there would open a context on another process's GPU.
            with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
                while not self._stopped:
                    self._offer(self._make())
        except BaseException as error:
            self._offer(error)

    def _make(self) -> tuple[_Rows, RowPosition]:
        mine = self._runtime.processes.share(self._step_rows)
        self._stream.skip(mine.start)
        rows: _Rows = []
        for at in range(0, len(mine), self._micro_rows):
            arrays = self._stream.take(min(self._micro_rows, len(mine) - at))
            inputs, targets = (torch.from_numpy(array) for array in arrays)
            if self._runtime.device.type == "cuda":
                inputs, targets = inputs.pin_memory(), targets.pin_memory()
            rows.append((inputs, targets))
        self._stream.skip(self._step_rows - mine.stop)
        return rows, self._stream.position()

    def _offer(self, item: tuple[_Rows, RowPosition] | BaseException) -> None:
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
    step_rows: int,
    micro_rows: int,
    max_seq_len: int,
    policy: Policy = PRETRAIN_POLICY,
    seed: int,
    position: DataPosition | None = None,
) -> Loader:
    """Rows of the training split, reshuffled in every epoch, tokenised in the background if needed.

    `step_rows`: rows per step over all processes. `micro_rows`: maximum rows per micro-batch. `position`: as yielded
    with the last step before resuming; since then the number of processes and both sizes may have changed, and files
    may have been appended.

    Raises ValueError for a position from other data or settings; for an empty dataset, at the first batch.
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
    cores = hardware.usable_cores() // runtime.processes.world_size
    threads = max(1, min(cores // CORES_PER_ENCODER, MOST_ENCODERS))
    store = open_tokens(dataset, tokenizer, runtime.paths, workers=threads)
    source = TokenWindows(store, tokenizer.bos, max_seq_len, policy, seed)
    stream = RowStream(source, max_seq_len, position.row if position else None)
    return Loader(stream, runtime, step_rows, micro_rows, identity, store)


def sft_loader(
    rendered: RenderedConversations,
    tokenizer: Tokenizer,
    runtime: Runtime,
    *,
    step_rows: int,
    micro_rows: int,
    max_seq_len: int,
    seed: int,
    position: DataPosition | None = None,
) -> Loader:
    """Conversations, rendered for this context, packed by bestfit-pad.

    Only tokens that the assistant must learn to write are targets; every row has one. Conversations in a row attend to
    earlier ones unless the model keeps them apart. `rows_per_epoch` is the length of one pass. Raises ValueError for a
    position from other data or settings.
    """
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
    return Loader(stream, runtime, step_rows, micro_rows, identity, rows_per_epoch=source.rows_per_epoch)


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
