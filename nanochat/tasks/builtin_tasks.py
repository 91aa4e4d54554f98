"""The tasks of the embedded dataset: held-out combinations of what it teaches."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import takewhile

from nanochat.builtin import EvalItem, evaluation
from nanochat.paths import Paths
from nanochat.tasks.checks import contains_phrase, first_number, is_choice, is_number, last_number, names_only
from nanochat.tasks.task import RIGHT, Item, ItemSplit, Score, Task, user_item

MISSPELLED = 0.5
"""Partial credit for a spelling, times the share of its letters that are right up to the first wrong one."""

_SEED = 0
_MAX_NEW_TOKENS = 64
_SPELLED = re.compile(r"\w(?:-\w)+")


def check_fact(item: Item, text: str) -> Score:
    """Right if the text names the answer and no other of the same kind; WELL_FORMED if it names another."""
    return names_only(text, item.answer, item.meta["others"])


def check_number(item: Item, text: str) -> Score:
    """Right if the last number of the text is; WELL_FORMED for another number."""
    return is_number(last_number(text), item.answer)


def check_letter_count(item: Item, text: str) -> Score:
    """Right if the first number of the text is the count; WELL_FORMED for another number."""
    return is_number(first_number(text), item.answer)


def check_spelling(item: Item, text: str) -> Score:
    """Right if the text has the letters joined by hyphens, no more and no fewer; up to MISSPELLED for a beginning."""
    if contains_phrase(text, item.answer):
        return RIGHT
    spelled = _SPELLED.search(text)
    if spelled is None:
        return Score(0.0, "no letters joined by hyphens")
    found, wanted = spelled.group().split("-"), item.answer.split("-")
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(found, wanted, strict=False)))
    return Score(MISSPELLED * same / max(len(found), len(wanted)), f"spells {spelled.group()}")


def check_phrase(item: Item, text: str) -> Score:
    """Right if the text contains the phrase that every right reply does."""
    return RIGHT if item.answer in text else Score(0.0, f"without {item.answer!r}")


@cache
def _evaluation() -> dict[str, list[EvalItem]]:
    return evaluation(_SEED)


def _items(name: str, paths: Paths, split: ItemSplit, seed: int) -> Sequence[Item]:
    if split != "test":
        raise ValueError(f"{name} has no split {split!r}: train on the conversations `builtin`")
    return [
        user_item(item.prompt, item.answer, item.choices, {**item.meta, "others": item.others})
        for item in _evaluation()[name]
    ]


def _generated(name: str, check: Callable[[Item, str], Score]) -> Task:
    return Task(name, "generate", 0.0, _MAX_NEW_TOKENS, partial(_items, name), check)


BUILTIN_TASKS = (
    _generated("builtin-facts", check_fact),
    _generated("builtin-facts-novel", check_fact),
    _generated("builtin-arithmetic", check_number),
    _generated("builtin-letters", check_letter_count),
    _generated("builtin-spelling", check_spelling),
    _generated("builtin-identity", check_phrase),
    _generated("builtin-refusal", check_phrase),
    Task("builtin-choice", "choice", 0.25, 1, partial(_items, "builtin-choice"), is_choice),
)
