"""The tasks of the embedded dataset: held-out combinations of what it teaches."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, partial

from nanochat.builtin import EvalItem, evaluation
from nanochat.paths import Paths
from nanochat.tasks.task import (
    Item,
    Task,
    answer_contains,
    contains_phrase,
    ends_in_number,
    is_choice,
    user_item,
)

SEED = 0
_MAX_NEW_TOKENS = 64


def check_fact(item: Item, text: str) -> bool:
    """The right answer stands in the text and no other answer of the same kind does."""
    return answer_contains(text, item.answer, item.meta["others"])


def check_number(item: Item, text: str) -> bool:
    """The last number of the text is the right one."""
    return ends_in_number(text, item.answer)


def check_letter_count(item: Item, text: str) -> bool:
    """The first number of the text is the right count."""
    found = re.search(r"\d+", text)
    return found is not None and int(found.group()) == int(item.answer)


def check_spelling(item: Item, text: str) -> bool:
    """The letters joined by hyphens stand in the text, no more and no fewer."""
    return contains_phrase(text, item.answer)


def check_phrase(item: Item, text: str) -> bool:
    """The phrase that makes the reply right stands in the text."""
    return item.answer in text


@cache
def _evaluation() -> dict[str, list[EvalItem]]:
    return evaluation(SEED)


def _task(name: str, check: Callable[[Item, str], bool], paths: Paths) -> Task:
    """A builtin task; `paths` is not needed, for nothing is downloaded."""
    items = [
        user_item(item.prompt, item.answer, item.choices, {**item.meta, "others": item.others})
        for item in _evaluation()[name]
    ]
    choice = bool(items[0].choices)
    baseline = 1 / len(items[0].choices) if choice else 0.0
    return Task(
        name, "choice" if choice else "generate", baseline, items, check, 1 if choice else _MAX_NEW_TOKENS
    )


_CHECKS: dict[str, Callable[[Item, str], bool]] = {
    "builtin-facts": check_fact,
    "builtin-facts-novel": check_fact,
    "builtin-arithmetic": check_number,
    "builtin-letters": check_letter_count,
    "builtin-spelling": check_spelling,
    "builtin-identity": check_phrase,
    "builtin-refusal": check_phrase,
    "builtin-choice": is_choice,
}

BUILTIN_TASKS: dict[str, Callable[[Paths], Task]] = {
    name: partial(_task, name, check) for name, check in _CHECKS.items()
}
