"""What a model makes of prompts, where it is scored: the few positions of each prompt that an evaluation reads.

The prompts of one item mostly begin alike (its few-shot examples and question). Their common prefix runs once: the
first prompt of each item runs whole on a row of the cache, and the others run from where they differ, on the same row.
Shapes: N prompts, S scored positions, C model width, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nanochat.eval.batching import length_batches
from nanochat.infer.cache import RowCache, row_bytes
from nanochat.infer.decoder import Span, threads_beside
from nanochat.infer.decoders import Decoders
from nanochat.model.gpt import GPT

_CACHE_BYTES = {"cuda": 8 << 30, "mps": 1 << 30, "cpu": 256 << 20}
"""The most memory for keys and values, by device type."""
_MAX_ROWS = {"cuda": 256, "mps": 32, "cpu": 16}
"""Items that run at once: enough to fill the device with what remains after the common prefixes."""
LOGITS_AT_ONCE = 1024
"""Scored positions whose full logits are in memory together."""


@dataclass(frozen=True)
class PromptRow:
    """Tokens of one prompt, of which ids[start:end] are scored, each given the ones before it; start is at least 1."""

    ids: list[int]
    start: int
    end: int


@dataclass(frozen=True)
class _Item:
    """Prompts that share their first `shared` tokens, which end before the first position that is read."""

    prompts: Sequence[PromptRow]
    shared: int


class PromptStates:
    """Runs prompts on a frozen copy of a model, in evaluation mode on its device.

    batch_tokens: the most tokens that run at once, unless one prompt has more.
    """

    def __init__(self, model: GPT, batch_tokens: int):
        config, device, dtype = model.config, model.head.weight.device, model.compute_dtype
        self.batch_tokens = batch_tokens
        within = _CACHE_BYTES[device.type] // row_bytes(config, config.max_seq_len, dtype) - 1
        self._rows = max(1, min(_MAX_ROWS[device.type], within))
        self._decoders = Decoders(model, RowCache(config, self._rows, config.max_seq_len, device, dtype))

    @torch.inference_mode()
    def before_scored(self, groups: Sequence[Sequence[PromptRow]]) -> list[list[Tensor]]:
        """For every prompt of every group, the hidden states (S, C) from which its scored tokens are predicted.

        The prompts of a group are those of one item, at least one.
        """
        items = [_Item(prompts, _shared(prompts)) for prompts in groups]
        states: list[list[Tensor]] = [[] for _ in groups]
        longest = [max(len(prompt.ids) for prompt in prompts) for prompts in groups]
        for batch in length_batches(longest, self.batch_tokens):
            for start in range(0, len(batch), self._rows):
                chosen = batch[start : start + self._rows]
                for at, found in self._run([items[index] for index in chosen]):
                    states[chosen[at]].append(found)
        return states

    def logits(self, hidden_SC: Tensor) -> Iterator[Tensor]:
        """Soft-capped logits, fp32, in pieces of at most LOGITS_AT_ONCE rows."""
        decoder = self._decoders.best()
        for part_SC in hidden_SC.split(LOGITS_AT_ONCE):
            with threads_beside(decoder), torch.inference_mode():
                yield decoder.logits(part_SC)

    def _run(self, items: Sequence[_Item]) -> Iterator[tuple[int, Tensor]]:
        """(item, hidden states of its next prompt): the items' first prompts, then their second ones, …"""
        decoder = self._decoders.best()
        for turn in range(max(len(item.prompts) for item in items)):
            running = [(row, item) for row, item in enumerate(items) if turn < len(item.prompts)]
            spans = []
            for row, item in running:
                ids, start = item.prompts[turn].ids, item.shared if turn else 0
                stop = item.prompts[turn].end - 1  # the last scored token is read, not run
                spans.append(Span(row, start, ids[start:stop], ids[start - 1] if start else 0))
            with threads_beside(decoder):
                hidden_TC = decoder.hidden_of(spans)
            at = 0
            for (row, item), span in zip(running, spans, strict=True):
                prompt = item.prompts[turn]
                first = at + prompt.start - 1 - span.start
                yield row, hidden_TC[first : first + prompt.end - prompt.start].clone()
                at += len(span.tokens)


def common_prefix(texts: Sequence[list[int]]) -> int:
    """The length of the common prefix of all texts: that of the first and the last in alphabetical order."""
    first, last = min(texts), max(texts)
    differing = (at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    return next(differing, len(first))


def _shared(prompts: Sequence[PromptRow]) -> int:
    """How many first tokens need not run again: they are common, and all positions read come after them."""
    return min(common_prefix([prompt.ids for prompt in prompts]), *(prompt.start - 1 for prompt in prompts))
