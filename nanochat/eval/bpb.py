"""Bits per byte: how well a model predicts raw documents, independent of its tokenizer.

`cut` splits the documents into windows once; `score` can then be called repeatedly while a model trains.
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
from nanochat.tokenizer.tokenizer import Tokenizer

_ENCODE_AT_ONCE = 256  # documents per call of the encoder


@dataclass(frozen=True)
class BpbResult:
    """`bpb` = nats / ln 2 / bytes, counting every token of every document once."""

    bpb: float
    nats: float
    bytes: int
    tokens: int
    documents: int


@dataclass(frozen=True)
class Windows:
    """Documents as ids, each after a BOS, and windows over them that score every token once.

    Window i reads ids[starts[i] : starts[i] + lengths[i]] and predicts the token after each: its first input is
    the last target of the previous window, or the document's BOS.
    """

    ids: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    bytes: int
    documents: int


def cut(
    tokenizer: Tokenizer, documents: Iterable[str], *, max_seq_len: int, max_bytes: int | None = None
) -> Windows:
    """Windows of at most `max_seq_len` tokens over the first documents, up to `max_bytes` of UTF-8 (None: all).

    The choice of documents depends on their bytes alone, not on tokenizer, context or batch: it ends before the
    first one that would exceed the limit, but always includes one document. Raises ValueError if there is no text.
    """
    if max_seq_len < 1:
        raise ValueError(f"the context must be at least 1 token, not {max_seq_len}")
    chosen = first_documents(documents, max_bytes)
    if not chosen:
        raise ValueError("no text to score: the documents are all empty")
    token_bytes = tokenizer.token_bytes()
    pieces, starts, lengths, offset, n_bytes = [], [], [], 0, 0
    for at in range(0, len(chosen), _ENCODE_AT_ONCE):
        for ids in tokenizer.encode_batch(chosen[at : at + _ENCODE_AT_ONCE], threads=hardware.usable_cores()):
            piece = np.array([tokenizer.bos, *ids], dtype=np.int32)
            first = np.arange(0, len(ids), max_seq_len)
            pieces.append(piece)
            starts.append(first + offset)
            lengths.append(np.minimum(max_seq_len, len(ids) - first))
            offset += len(piece)
            n_bytes += int(token_bytes[piece[1:]].sum())
    return Windows(
        np.concatenate(pieces), np.concatenate(starts), np.concatenate(lengths), n_bytes, len(chosen)
    )


def first_documents(documents: Iterable[str], max_bytes: int | None) -> list[str]:
    """The first documents, up to `max_bytes` of UTF-8 but at least one; without empty ones."""
    chosen: list[str] = []
    total = 0
    for document in documents:
        total += len(document.encode())
        if chosen and max_bytes is not None and total > max_bytes:
            break
        if document:
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
    nats = 0.0
    with processes.together("bits per byte"):
        for batch in length_batches(lengths, batch_tokens):
            rows = [windows.ids[windows.starts[mine[i]] :][: lengths[i] + 1].tolist() for i in batch]
            inputs_BT = pad_right([row[:-1] for row in rows], 0, runtime.device)
            targets_BT = pad_right([row[1:] for row in rows], IGNORE, runtime.device)
            # Summed in float64 (which some devices lack), so that the result does not depend on the batching.
            nats += model.token_losses(model(inputs_BT), targets_BT).cpu().double().sum().item()
    nats = sum(processes.gather(nats))
    return BpbResult(
        bpb=nats / math.log(2) / windows.bytes,
        nats=nats,
        bytes=windows.bytes,
        tokens=int(windows.lengths.sum()),
        documents=windows.documents,
    )


def bits_per_byte(
    model: GPT,
    tokenizer: Tokenizer,
    documents: Iterable[str],
    runtime: Runtime,
    *,
    max_seq_len: int,
    batch_tokens: int,
    max_bytes: int | None = None,
) -> BpbResult:
    """`cut`, then `score`."""
    with runtime.processes.together("reading the text"):
        windows = cut(tokenizer, documents, max_seq_len=max_seq_len, max_bytes=max_bytes)
    return score(model, windows, runtime, batch_tokens=batch_tokens)
