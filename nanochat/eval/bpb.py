"""Bits per byte: how well a model predicts raw documents, independent of its tokenizer.

`cut` splits the documents into windows once; `score` can then be called repeatedly while a model trains.
Shapes: B rows, T tokens, D documents.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from nanochat import hardware
from nanochat.eval.batching import length_batches, pad_right
from nanochat.model.gpt import GPT
from nanochat.model.loss import IGNORE
from nanochat.runtime import Runtime
from nanochat.text.readers import Document
from nanochat.tokenizer.tokenizer import Tokenizer

_ENCODE_AT_ONCE = 256  # documents per call of the encoder


@dataclass(frozen=True)
class SourceBpb:
    """The share of one source in a text's bits per byte."""

    source: str
    bpb: float
    bytes: int
    documents: int


@dataclass(frozen=True)
class BpbResult:
    """`bpb` = nats / ln 2 / bytes, counting every token of every document once.

    A window has up to `context` tokens, of which the last `stride` are scored: the others, which the window before
    scored, are only context. Windows do not overlap if both are equal. `sources` is empty if no document names one.
    """

    bpb: float
    nats: float
    bytes: int
    tokens: int
    documents: int
    context: int
    stride: int
    sources: tuple[SourceBpb, ...] = ()


@dataclass(frozen=True)
class Windows:
    """Documents as ids, each after a BOS, and windows over them that score every token once.

    Window i reads ids[starts[i] : starts[i] + lengths[i]] and predicts the token after each, of which the last
    scored[i] count.
    """

    ids: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    scored: np.ndarray
    document: np.ndarray
    """The place of each window's document."""
    document_bytes: np.ndarray
    sources: tuple[str, ...]
    """Of each document."""
    context: int
    stride: int

    @property
    def bytes(self) -> int:
        """Of all documents, in UTF-8."""
        return int(self.document_bytes.sum())

    @property
    def documents(self) -> int:
        """How many there are."""
        return len(self.document_bytes)


def cut(
    tokenizer: Tokenizer,
    documents: Iterable[Document],
    *,
    max_seq_len: int,
    max_bytes: int | None = None,
    stride: int | None = None,
) -> Windows:
    """Windows of at most `max_seq_len` tokens over the first documents, up to `max_bytes` of UTF-8 (None: all).

    Each scores `stride` tokens (None: all of its own) and sees as much text before them as the context allows.

    The choice of documents depends on their bytes alone, not on tokenizer, context or batch: it ends before the
    first one that would exceed the limit, but always includes one document. Raises ValueError if there is no text, or
    for a stride beyond the context.
    """
    if max_seq_len < 1:
        raise ValueError(f"the context must be at least 1 token, not {max_seq_len}")
    stride = max_seq_len if stride is None else stride
    if not 1 <= stride <= max_seq_len:
        raise ValueError(f"--stride must be from 1 to the context of {max_seq_len} tokens, not {stride}")
    chosen = first_documents(documents, max_bytes)
    if not chosen:
        raise ValueError("no text to score: the documents are all empty")
    token_bytes = tokenizer.token_bytes()
    pieces, starts, ends, scored, owners, offset = [], [], [], [], [], 0
    n_bytes: list[int] = []
    for at in range(0, len(chosen), _ENCODE_AT_ONCE):
        texts = [document.text for document in chosen[at : at + _ENCODE_AT_ONCE]]
        for ids in tokenizer.encode_batch(texts, threads=hardware.usable_cores()):
            piece = np.array([tokenizer.bos, *ids], dtype=np.int32)
            done = np.arange(0, len(ids), stride)
            end = np.minimum(done + stride, len(ids))
            starts.append(offset + np.maximum(0, done + stride - max_seq_len))
            ends.append(offset + end)
            scored.append(end - done)
            owners.append(np.full(len(done), len(n_bytes)))
            n_bytes.append(int(token_bytes[piece[1:]].sum()))
            pieces.append(piece)
            offset += len(piece)
    first = np.concatenate(starts)
    return Windows(
        ids=np.concatenate(pieces),
        starts=first,
        lengths=np.concatenate(ends) - first,
        scored=np.concatenate(scored),
        document=np.concatenate(owners),
        document_bytes=np.array(n_bytes),
        sources=tuple(document.source for document in chosen),
        context=max_seq_len,
        stride=stride,
    )


def first_documents(documents: Iterable[Document], max_bytes: int | None) -> list[Document]:
    """The first documents, up to `max_bytes` of UTF-8 but at least one; without empty ones."""
    chosen: list[Document] = []
    total = 0
    for document in documents:
        total += len(document.text.encode())
        if chosen and max_bytes is not None and total > max_bytes:
            break
        if document.text:
            chosen.append(document)
    return chosen


@torch.inference_mode()
def score(model: GPT, windows: Windows, runtime: Runtime, *, batch_tokens: int) -> BpbResult:
    """Score the windows, split across processes; every process gets the same result.

    Args:
        model: uncompiled, since batches differ in shape (a compiled module's `_orig_mod` shares its weights).
        batch_tokens: the most tokens per forward pass.
    """
    processes = runtime.processes
    mine = range(processes.rank, len(windows.starts), processes.world_size)
    lengths = [int(windows.lengths[i]) for i in mine]
    nats_D = np.zeros(windows.documents)
    with processes.together("bits per byte"):
        for batch in length_batches(lengths, batch_tokens):
            chosen = [mine[i] for i in batch]
            rows = [windows.ids[windows.starts[w] :][: windows.lengths[w] + 1].tolist() for w in chosen]
            inputs_BT = pad_right([row[:-1] for row in rows], 0, runtime.device)
            targets = [
                [*[IGNORE] * (windows.lengths[w] - windows.scored[w]), *row[-windows.scored[w] :]]
                for w, row in zip(chosen, rows, strict=True)
            ]
            targets_BT = pad_right(targets, IGNORE, runtime.device)
            # Summed in float64 (which some devices lack), so that the result does not depend on the batching.
            nats_B = model.token_losses(model(inputs_BT), targets_BT).cpu().double().sum(dim=1).numpy()
            np.add.at(nats_D, windows.document[chosen], nats_B)
    nats_D = np.sum([np.array(part) for part in processes.gather(nats_D.tolist())], axis=0)
    return BpbResult(
        bpb=_bpb(nats_D.sum(), windows.bytes),
        nats=float(nats_D.sum()),
        bytes=windows.bytes,
        tokens=int(windows.scored.sum()),
        documents=windows.documents,
        context=windows.context,
        stride=windows.stride,
        sources=_by_source(windows, nats_D) if any(windows.sources) else (),
    )


def _bpb(nats: float, n_bytes: float) -> float:
    return float(nats / math.log(2) / n_bytes)


def _by_source(windows: Windows, nats_D: np.ndarray) -> tuple[SourceBpb, ...]:
    """In alphabetical order; documents that name none come first, under ""."""
    names, place_D = np.unique(np.array(windows.sources, dtype=object), return_inverse=True)
    nats, n_bytes = np.bincount(place_D, nats_D), np.bincount(place_D, windows.document_bytes)
    counts = np.bincount(place_D)
    return tuple(
        SourceBpb(name, _bpb(nats[at], n_bytes[at]), int(n_bytes[at]), int(counts[at]))
        for at, name in enumerate(names)
    )


def bits_per_byte(
    model: GPT,
    tokenizer: Tokenizer,
    documents: Iterable[Document],
    runtime: Runtime,
    *,
    max_seq_len: int,
    batch_tokens: int,
    stride: int | None = None,
) -> BpbResult:
    """`cut`, then `score`."""
    with runtime.processes.together("reading the text"):
        windows = cut(tokenizer, documents, max_seq_len=max_seq_len, stride=stride)
    return score(model, windows, runtime, batch_tokens=batch_tokens)
