"""What a task is: its items by split, the check that scores an answer, and the conversation that teaches an item."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from nanochat.paths import Paths
from nanochat.tokenizer.chat_format import Conversation, Message

ItemSplit = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Item:
    """One question: the messages up to the assistant's turn, and the reference answer.

    `choices` are the option letters of a "choice" task. `meta` is for the check and the training conversation.
    """

    messages: tuple[Message, ...]
    answer: str
    choices: tuple[str, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """How good an answer is, and what is wrong with it ("" if nothing is).

    `value` lies in [0, 1] and is 1 for right answers only; anything between is partial credit. Accuracy counts the
    ones. For reinforcement the value is the reward.
    """

    value: float
    reason: str = ""

    def __post_init__(self) -> None:
        assert 0 <= self.value <= 1, self
        assert self.right == (not self.reason), self

    @property
    def right(self) -> bool:
        """Whether the answer counts for accuracy."""
        return self.value == 1


RIGHT = Score(1.0)
WELL_FORMED = 0.1
"""Partial credit for a wrong answer of the right form: the first thing that reinforcement has to find."""


@dataclass(frozen=True)
class Task:
    """A benchmark: one file of this package, one row of the registry.

    Attributes:
        kind: "choice": the answer is the option letter with the highest logit; "generate": the model answers freely.
        baseline: the accuracy of guessing.
        items: `(paths, split, seed) → items`, downloaded or made when called and equal in every call. "test" is for
            evaluation and the same for every seed. Raises ValueError for a split that the benchmark does not have,
            EnvironmentFault if its data cannot be downloaded.
        check: scores the text of an answer: what the assistant said after its last tool output, or all it said if it
            called no tool. Its docstring states the partial credit.
        unsafe_check: for a task that runs programs of the model: `check` where the sandbox may be incomplete.
        conversation: the training conversation of an item; None if the benchmark has no training data.
    """

    name: str
    kind: Literal["choice", "generate"]
    baseline: float
    max_new_tokens: int
    items: Callable[[Paths, ItemSplit, int], Sequence[Item]]
    check: Callable[[Item, str], Score]
    conversation: Callable[[Item], Conversation] | None = None
    unsafe_check: Callable[[Item, str], Score] | None = None


def user_item(
    prompt: str, answer: str, choices: tuple[str, ...] = (), meta: dict[str, Any] | None = None
) -> Item:
    """An item that asks one user message."""
    return Item(({"role": "user", "content": prompt},), answer, choices, meta or {})


def answered(item: Item, content: str | list[dict[str, str]]) -> Conversation:
    """The item's messages and the assistant's reply, text or parts, as a conversation."""
    return {"messages": [*item.messages, {"role": "assistant", "content": content}]}


def answered_by_letter(item: Item) -> Conversation:
    """The training conversation of a multiple-choice item: the reply is the option letter alone."""
    return answered(item, item.answer)
