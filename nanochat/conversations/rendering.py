"""Conversations as ids and mask, for fine-tuning and its validation loss."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from nanochat.console import progress, say
from nanochat.runtime import Runtime
from nanochat.tokenizer.chat_format import Conversation, render
from nanochat.tokenizer.special import ASSISTANT_END
from nanochat.tokenizer.tokenizer import Tokenizer, token_dtype


@dataclass(frozen=True)
class RenderedConversations:
    """Conversation i is `ids[offsets[i] : offsets[i + 1]]`."""

    ids: np.ndarray  # (tokens,), uint16 or uint32
    mask: np.ndarray  # (tokens,), bool: the assistant's tokens, which are trained on
    offsets: np.ndarray  # (conversations + 1,), int64

    def __len__(self) -> int:
        return len(self.offsets) - 1


def render_conversations(
    conversations: Sequence[Conversation],
    tokenizer: Tokenizer,
    max_seq_len: int,
    runtime: Runtime | None = None,
) -> RenderedConversations:
    """Conversations with a supervised token among their first `max_seq_len` targets, in order.

    A conversation that fits a row is whole. A longer one ends after its last reply that fits, so that it is cut between
    turns; if none fits, the packer cuts it within its first reply. Both are counted. With a runtime of several
    processes, which all call this, each renders its share and all get the whole.

    Raises ValueError for a conversation that cannot be rendered, or if none has a supervised token.
    """
    if runtime is None or runtime.processes.world_size == 1:
        rendered = _render(conversations, tokenizer, max_seq_len)
    else:
        own = runtime.processes.share(len(conversations))
        with runtime.processes.together("rendering conversations"):
            mine = _render(conversations[own.start : own.stop], tokenizer, max_seq_len)
        rendered = _joined(mine, runtime)
    lengths = rendered.lengths
    if not lengths:
        raise ValueError(
            f"no conversation has anything to learn within {max_seq_len} tokens: use a longer context"
        )
    if skipped := len(conversations) - len(lengths):
        say(
            f"{skipped:,} of {len(conversations):,} conversations skipped: "
            f"nothing to learn within {max_seq_len} tokens"
        )
    if cut := rendered.cut:
        ways = ", ".join(f"{count:,} {where}" for where, count in cut.items())
        say(f"{cut.total():,} of {len(conversations):,} conversations cut to {max_seq_len} tokens: {ways}")
    return RenderedConversations(
        (rendered.marked >> 1).astype(token_dtype(tokenizer.vocab_size)),
        (rendered.marked & 1).astype(bool),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    )


@dataclass(frozen=True)
class _Rendered:
    """The conversations of one process, or of all."""

    marked: np.ndarray  # (tokens,), int32: twice the id, plus one for tokens that are trained on
    lengths: list[int]
    cut: Counter[str]


def _render(conversations: Sequence[Conversation], tokenizer: Tokenizer, max_seq_len: int) -> _Rendered:
    ids, mask, lengths = array("i"), bytearray(), []
    turn_end = tokenizer.special(ASSISTANT_END)
    cut = Counter[str]()
    with progress("render conversations", len(conversations), "conversations") as shown:
        for number, conversation in enumerate(conversations):
            tokens, learn = render(tokenizer, conversation)
            if len(tokens) > max_seq_len + 1 and any(learn[1 : max_seq_len + 1]):
                ends = [at + 1 for at in range(max_seq_len + 1) if tokens[at] == turn_end]
                cut["after a turn" if ends else "within a reply"] += 1
                tokens = tokens[: ends[-1]] if ends else tokens
                learn = learn[: len(tokens)]
            if any(learn[1 : max_seq_len + 1]):
                ids.fromlist(tokens)
                mask.extend(learn)
                lengths.append(len(tokens))
            if number % 256 == 0:
                shown.update(number)
    marked = 2 * np.frombuffer(ids, dtype=np.int32) + np.frombuffer(mask, dtype=np.uint8)
    return _Rendered(marked, lengths, cut)


def _joined(mine: _Rendered, runtime: Runtime) -> _Rendered:
    """The shares of all processes, by rank."""
    processes = runtime.processes
    others = processes.gather((mine.lengths, mine.cut))
    counts = [sum(lengths) for lengths, _ in others]
    padded = torch.zeros(max(counts), dtype=torch.int32, device=runtime.device)
    padded[: len(mine.marked)] = torch.from_numpy(mine.marked)
    parts = processes.concatenate(padded).cpu().numpy().reshape(processes.world_size, -1)
    return _Rendered(
        np.concatenate([part[:count] for part, count in zip(parts, counts, strict=True)]),
        [length for lengths, _ in others for length in lengths],
        sum((cut for _, cut in others), Counter()),
    )
