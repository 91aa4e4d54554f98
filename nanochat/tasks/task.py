"""What a task is, and the checks of generated answers as pure functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Item:
    """One question: the messages up to the assistant's turn, and the reference answer.

    `choices` are the option letters of a "choice" task. `meta` is for the check and for reports.
    """

    messages: tuple[dict[str, Any], ...]
    answer: str
    choices: tuple[str, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """A named set of items.

    kind "choice": the answer is the option letter with the highest logit; "generate": the model answers freely
    and `check(item, text)` judges. `text` is what the assistant said after its last tool output, or all it said
    where it called no tool. `baseline` is the accuracy of guessing.
    """

    name: str
    kind: Literal["choice", "generate"]
    baseline: float
    items: Sequence[Item]
    check: Callable[[Item, str], bool]
    max_new_tokens: int


def user_item(
    prompt: str, answer: str, choices: tuple[str, ...] = (), meta: dict[str, Any] | None = None
) -> Item:
    """An item that asks one user message."""
    return Item(({"role": "user", "content": prompt},), answer, choices, meta or {})


def contains_phrase(text: str, phrase: str) -> bool:
    """Whether the phrase stands in the text as whole words, as written or with its first letter raised."""
    raised = phrase[:1].upper() + phrase[1:]
    forms = "|".join(re.escape(form) for form in dict.fromkeys((phrase, raised)))
    return re.search(rf"(?<![\w-])(?:{forms})(?![\w-])", text) is not None


def answer_contains(text: str, answer: str, others: Iterable[str] = ()) -> bool:
    """Whether the text has the answer, and beside it none of the other candidates, as whole words."""
    if not contains_phrase(text, answer):
        return False
    rest = text.replace(answer, "").replace(answer[:1].upper() + answer[1:], "")
    return not any(contains_phrase(rest, other) for other in others)


_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def last_number(text: str) -> float | None:
    """The last number written in digits, commas ignored; a minus right after a letter or digit is an operator."""
    found = None
    for match in _NUMBER.finditer(text):
        digits = match.group()
        if digits.startswith("-") and match.start() and text[match.start() - 1].isalnum():
            digits = digits[1:]
        found = float(digits.replace(",", ""))
    return found


def ends_in_number(text: str, answer: str) -> bool:
    """Whether the last number in the text equals the answer."""
    return last_number(text) == float(answer)


def exact(text: str, answer: str) -> bool:
    """Whether text and answer agree up to surrounding space."""
    return text.strip() == answer.strip()


def is_choice(item: Item, text: str) -> bool:
    """Check of a "choice" task: the text is the right option letter."""
    return exact(text, item.answer)
