"""What a model makes of prompts, where it is scored: the few positions of each prompt that an evaluation reads.

The prompts of one item mostly begin alike (its few-shot examples and question). They run one after another on one row
of the cache, in alphabetical order, and each only from where it differs from the one before. Many items run at once.
Shapes: N prompts, S scored positions, C model width, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

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
class _Turn:
    """A prompt of an item, its place in the group, and how many of its first tokens are on the item's row already."""

    place: int
    prompt: PromptRow
    cached: int

    @property
    def tokens(self) -> list[int]:
        """What is still to run; the last scored token is only read."""
        return self.prompt.ids[self.cached : self.prompt.end - 1]

    def span(self, row: int) -> Span:
        """The tokens to run, on a row of the cache."""
        previous = self.prompt.ids[self.cached - 1] if self.cached else 0
        return Span(row, self.cached, self.tokens, previous)

    def read(self, at: int) -> range:
        """The places of the positions before the scored tokens, if the span begins at place `at` of a batch."""
        return range(at + self.prompt.start - 1 - self.cached, at + self.prompt.end - 1 - self.cached)


class PromptStates:
    """Runs prompts on a frozen copy of a model, in evaluation mode on its device.

    batch_tokens: the most tokens that run at once, unless one prompt has more.
    """

    def __init__(self, model: GPT, batch_tokens: int):
        config, device, dtype = model.config, model.head.weight.device, model.compute_dtype
        self.batch_tokens = batch_tokens
        within = _CACHE_BYTES[device.type] // row_bytes(config, config.max_seq_len, dtype)
        self._rows = max(1, min(_MAX_ROWS[device.type], within))
        self._decoders = Decoders(model, RowCache(config, self._rows, config.max_seq_len, device, dtype))
        self._decoders.settle()  # one result is not computed by two decoders

    @torch.inference_mode()
    def before_scored(self, groups: Sequence[Sequence[PromptRow]]) -> list[list[Tensor]]:
        """For every prompt of every group, the hidden states (S, C) from which its scored tokens are predicted.

        The prompts of a group are those of one item, at least one.
        """
        items = [_turns(prompts) for prompts in groups]
        states = [list[Tensor]([torch.empty(0)]) * len(prompts) for prompts in groups]
        longest = [max(len(prompt.ids) for prompt in prompts) for prompts in groups]
        for batch in length_batches(longest, self.batch_tokens):
            for start in range(0, len(batch), self._rows):
                chosen = batch[start : start + self._rows]
                for row, turn, found_SC in self._run([items[index] for index in chosen]):
                    states[chosen[row]][turn.place] = found_SC
        return states

    def logits(self, hidden_SC: Tensor) -> Iterator[Tensor]:
        """Soft-capped logits, fp32, in pieces of at most LOGITS_AT_ONCE rows."""
        decoder = self._decoders.best()
        for part_SC in hidden_SC.split(LOGITS_AT_ONCE):
            with threads_beside(decoder), torch.inference_mode():
                yield decoder.logits(part_SC)

    def _run(self, items: Sequence[Sequence[_Turn]]) -> Iterator[tuple[int, _Turn, Tensor]]:
        """(row, turn, hidden states): the first prompts of all items at once, then their second ones, …"""
        decoder = self._decoders.best()
        for number in range(max(map(len, items))):
            running = [(row, turns[number]) for row, turns in enumerate(items) if number < len(turns)]
            starts = accumulate((len(turn.tokens) for _, turn in running), initial=0)
            read = [turn.read(at) for at, (_, turn) in zip(starts, running, strict=False)]
            spans = [turn.span(row) for row, turn in running]
            with threads_beside(decoder):
                hidden_SC = decoder.hidden_of(spans, [place for places in read for place in places])
            for (row, turn), found_SC in zip(running, hidden_SC.split([len(r) for r in read]), strict=True):
                yield row, turn, found_SC


def _turns(prompts: Sequence[PromptRow]) -> list[_Turn]:
    """The prompts of an item in alphabetical order, so that neighbours have long common prefixes."""
    order = sorted(range(len(prompts)), key=lambda place: prompts[place].ids)
    turns = [_Turn(order[0], prompts[order[0]], 0)]
    for before, place in pairwise(order):
        prompt, ran = prompts[place], prompts[before].end - 1
        # All positions that are read run.
        common = common_prefix([prompts[before].ids, prompt.ids])
        turns.append(_Turn(place, prompt, min(common, ran, prompt.start - 1)))
    return turns


def common_prefix(texts: Sequence[list[int]]) -> int:
    """The length of the common prefix of all texts: that of the first and the last in alphabetical order."""
    first, last = min(texts), max(texts)
    differing = (at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    return next(differing, len(first))
