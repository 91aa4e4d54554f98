"""Bits per byte: how well a model predicts raw documents, in a unit that no tokenizer flatters.

The documents are cut once (`cut`) and may be scored again and again while a model trains (`score`).
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

_ENCODE_AT_ONCE = 256  # documents handed to the encoder's threads together


@dataclass(frozen=True)
class BpbResult:
    """`bpb` = nats / ln 2 / bytes, over every token of every document once."""

    bpb: float
    nats: float
    bytes: int
    tokens: int
    documents: int


@dataclass(frozen=True)
class Windows:
    """Documents as ids, each behind a BOS, and the windows over them that score every token once.

    Window i reads ids[starts[i] : starts[i] + lengths[i]] and predicts each one's successor: its first input is
    the last target of the window before it, or the document's BOS.
    """

    ids: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    bytes: int
    documents: int


def cut(
    tokenizer: Tokenizer, documents: Iterable[str], *, max_seq_len: int, max_bytes: int | None = None
) -> Windows:
    """Windows of at most `max_seq_len` tokens over the first documents, `max_bytes` of UTF-8 in all (or all of them).

    Which documents are taken depends on their bytes alone, never on tokenizer, context or batch; the first one
    that would exceed the limit ends the choice, and one document is always taken. Raises ValueError when there is
    no text.
    """
    if max_seq_len < 1:
        raise ValueError(f"the context must be at least 1 token, not {max_seq_len}")
    chosen = _first(documents, max_bytes)
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


def _first(documents: Iterable[str], max_bytes: int | None) -> list[str]:
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
    """Score the windows, every process taking its share; the result is the same on all of them.

    Args:
        model: uncompiled, as batches differ in shape (the compiled module's `_orig_mod` shares its weights).
        batch_tokens: most tokens in one forward.
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
            # Summed in float64 (which not every device has), so that the batching leaves no trace in the result.
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
    """`cut` and `score` in one."""
    with runtime.processes.together("reading the text"):
        windows = cut(tokenizer, documents, max_seq_len=max_seq_len, max_bytes=max_bytes)
    return score(model, windows, runtime, batch_tokens=batch_tokens)
