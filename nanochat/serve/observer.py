"""What a worker reports about its samples and steps, for metrics."""

from __future__ import annotations

from typing import Protocol


class Observer(Protocol):
    """Receives what a worker does, on the event loop."""

    def started(self, waited: float, prompt_tokens: int) -> None:
        """A sample left the queue."""

    def tokens(self, count: int) -> None:
        """New tokens of a step."""

    def first(self, seconds: float) -> None:
        """The first token of a sample, so long after its arrival."""

    def gap(self, seconds: float) -> None:
        """A step gave samples tokens, so long after their last ones."""

    def ended(self, reason: str, seconds: float) -> None:
        """A sample ended: stop, length, abort or error."""

    def depth(self, running: int, waiting: int) -> None:
        """How many samples run and wait."""
