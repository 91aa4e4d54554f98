"""A task: items by split, a check that scores answers, and training conversations."""

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
    """The score of an answer, and what is wrong with it ("" if right).

    `value` is in [0, 1], and 1 only for right answers; values between are partial credit. Accuracy counts the ones;
    reinforcement learning uses the value as the reward.
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
"""Partial credit for a wrong answer in the right form, the first step that reinforcement learning rewards."""


@dataclass(frozen=True)
class Task:
    """A benchmark: one file in this package, one row in the registry.

    Attributes:
        kind: "choice": the answer is the option letter with the highest logit; "generate": the model answers freely.
        baseline: the accuracy of guessing.
        items: `(paths, split, seed) → items`, downloaded or made when called, the same in every call. "test" is for
            evaluation and does not depend on the seed. Raises ValueError for a split that the benchmark lacks,
            EnvironmentFault if its data cannot be downloaded.
        check: scores the text of an answer: the reply after its last tool output, or all of it if it called no tool.
            Its docstring states the partial credit.
        unsafe_check: for tasks that run the model's programs: `check` with a possibly incomplete sandbox.
        conversation: an item's training conversation; None if the benchmark has no training data.
        part: the part of the benchmark that an item belongs to, as MMLU's subject; each is scored apart too.
    """

    name: str
    kind: Literal["choice", "generate"]
    baseline: float
    max_new_tokens: int
    items: Callable[[Paths, ItemSplit, int], Sequence[Item]]
    check: Callable[[Item, str], Score]
    conversation: Callable[[Item], Conversation] | None = None
    unsafe_check: Callable[[Item, str], Score] | None = None
    part: Callable[[Item], str] | None = None


def user_item(
    prompt: str, answer: str, choices: tuple[str, ...] = (), meta: dict[str, Any] | None = None
) -> Item:
    """An item with one user message."""
    return Item(({"role": "user", "content": prompt},), answer, choices, meta or {})


def answered(item: Item, content: str | list[dict[str, str]]) -> Conversation:
    """A conversation of the item's messages and the assistant's reply, text or parts."""
    return {"messages": [*item.messages, {"role": "assistant", "content": content}]}


def answered_by_letter(item: Item) -> Conversation:
    """The training conversation of a multiple-choice item, with the option letter as the reply."""
    return answered(item, item.answer)
