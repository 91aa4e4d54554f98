"""What the engine asks of a decoder: run tokens of several rows on the cache, and give logits.

Shapes: N spans, W wanted tokens, C model width, V vocabulary.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from nanochat.infer.sampler import SamplingParams


class Span(NamedTuple):
    """Consecutive tokens for a cache row, from a position on."""

    row: int
    start: int
    tokens: Sequence[int]
    previous: int
    """The token before them; any id where they begin the row."""

    @property
    def stop(self) -> int:
        """The position after the last token."""
        return self.start + len(self.tokens)


class Continuation(NamedTuple):
    """A row that decodes several tokens, from its latest one on."""

    row: int
    position: int
    token: int
    previous: int
    """As of a Span."""
    params: SamplingParams
    uniforms: Sequence[float]
    """A random number for each token that it may decode."""


class Decoded(NamedTuple):
    """The tokens of a row."""

    tokens: list[int]
    logprobs: list[float]
    """Of each token, before bias and temperature; empty if no row asks."""


class MultiStepDecoder(Protocol):
    """Decodes several tokens of each row in one call, the same as one by one."""

    def can_choose(self, params: Sequence[SamplingParams]) -> bool:
        """Whether tokens of rows with these parameters can be chosen."""
        ...

    def run(self, rows: Sequence[Continuation], last_ids: Collection[int]) -> list[Decoded]:
        """The tokens of each row: the first of `last_ids` is its last one. Keys and values go into the cache."""
        ...


class Decoder(Protocol):
    """Runs tokens on a cache that it was made with."""

    multi_step: MultiStepDecoder | None
    """None if it decodes a token at a time."""
    torch_threads: int | None
    """How many threads PyTorch may use beside it; None: as many as it likes."""

    def wake(self) -> None:
        """A call of `run` is about to come: threads that sleep may wake meanwhile."""
        ...

    def run(self, spans: Sequence[Span]) -> Tensor:
        """The hidden state of each span's last token, (N, C). All keys and values go into the cache.

        No two spans have the same row.
        """
        ...

    def hidden_of(self, spans: Sequence[Span], wanted: Sequence[int]) -> Tensor:
        """As `run`, but the hidden states (W, C) of the wanted tokens: ascending places among all, span after span."""
        ...

    def logits(self, hidden_NC: Tensor) -> Tensor:
        """Soft-capped logits (N, V), fp32."""
        ...

    def choose(
        self, logits_NV: Tensor, params: Sequence[SamplingParams], uniforms: Sequence[float]
    ) -> Tensor:
        """One token id per row, as `nanochat.infer.sampler.sample`."""
        ...

    def log_sums(self, logits_NV: Tensor) -> Tensor:
        """The logarithm of the sum of e^logit of each row, (N,)."""
        ...


@contextmanager
def threads_beside(decoder: Decoder) -> Iterator[None]:
    """Limits this thread's PyTorch to what a decoder leaves it: waiting threads of both would fight for the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(decoder.torch_threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
