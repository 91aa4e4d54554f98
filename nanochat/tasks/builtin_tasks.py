"""The builtin world's tasks. Test and validation items are combinations held out of its training text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import takewhile
from random import Random

from nanochat.builtin import EXERCISES, Exercise, evaluation
from nanochat.builtin.dialogues import conversation
from nanochat.paths import Paths
from nanochat.tasks.checks import (
    contains_phrase,
    first_number,
    is_choice,
    is_number,
    last_number,
    names_only,
    without_name,
)
from nanochat.tasks.on_demand import OnDemand
from nanochat.tasks.task import (
    RIGHT,
    Item,
    ItemSplit,
    Score,
    Task,
    answered,
)
from nanochat.tokenizer.chat_format import Conversation

MISSPELLED = 0.5
"""Partial credit for a spelling: this times the share of letters before the first wrong one."""

_TEST_SEED = 0
_DRAWN_ITEMS: dict[ItemSplit, int] = {"train": 10_000, "val": 250}
_MAX_NEW_TOKENS = 64
_OPTION_LETTER = re.compile(r"(?<=\s)[A-D](?!\w)")
_FIRST_LETTER = re.compile(r"\s*(?:\(([A-D])\)|([A-D])[.)](?!\S))")
_SPELLED = re.compile(r"\w(?:-\w)+")


def check_fact(item: Item, text: str) -> Score:
    """Right if the text names the answer, or another true one, and no wrong one; WELL_FORMED if it names a wrong one.

    An answer within the subject does not count: "Mexico City" does not name Mexico.
    """
    return names_only(
        without_name(text, item.meta["subject"], item.answer),
        (item.answer, *item.meta["also"]),
        item.meta["others"],
    )


def check_number(item: Item, text: str) -> Score:
    """Right if the text's last number is the answer; WELL_FORMED for another number."""
    return is_number(last_number(text), item.answer)


def check_letter_count(item: Item, text: str) -> Score:
    """Right if the text's first number is the count; WELL_FORMED for another number."""
    return is_number(first_number(text), item.answer)


def check_spelling(item: Item, text: str) -> Score:
    """Right if the text has exactly the letters, joined by hyphens; up to MISSPELLED for a correct prefix."""
    text = text.lower()
    if contains_phrase(text, item.answer):
        return RIGHT
    spelled = _SPELLED.search(text)
    if spelled is None:
        return Score(0.0, "no letters joined by hyphens")
    found, wanted = spelled.group().split("-"), item.answer.split("-")
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(found, wanted, strict=False)))
    return Score(MISSPELLED * same / max(len(found), len(wanted)), f"spells {spelled.group()}")


def check_phrase(item: Item, text: str) -> Score:
    """Right if the text contains the answer, a phrase common to all right replies."""
    return RIGHT if item.answer in text else Score(0.0, f"without {item.answer!r}")


def check_named_choice(item: Item, text: str) -> Score:
    """Right if the last letter of an option in the text is the right one's; WELL_FORMED for the letter of another.

    A letter stands alone. At the start, where A is a word, it counts if it is all of the text or written as "A.",
    "A)" or "(A)", and then decides.
    """
    if first := _FIRST_LETTER.match(text):
        return is_choice(item, first[1] or first[2])
    letters = _OPTION_LETTER.findall(" " + text if len(text.strip()) == 1 else text)
    return is_choice(item, letters[-1] if letters else "")


@cache
def _evaluation() -> dict[str, list[Exercise]]:
    return evaluation(_TEST_SEED)


def _item(exercise: Exercise) -> Item:
    meta = {**exercise.meta, "also": exercise.also, "others": exercise.others, "reply": exercise.reply}
    messages = conversation([*exercise.history, (exercise.prompt, exercise.reply)])["messages"][:-1]
    return Item(tuple(messages), exercise.answer, exercise.choices, meta)


def _test_items(name: str, paths: Paths, split: ItemSplit, seed: int) -> Sequence[Item]:
    if split != "test":
        raise ValueError(f"{name} has no split {split!r}: its wordings are in no training text")
    return [_item(exercise) for exercise in _evaluation()[name]]


def _items(kind: str, paths: Paths, split: ItemSplit, seed: int) -> Sequence[Item]:
    if split == "test":
        return _test_items(f"builtin-{kind}", paths, split, seed)
    return OnDemand(range(_DRAWN_ITEMS[split]), partial(_draw, kind, split, seed))


def _draw(kind: str, split: ItemSplit, seed: int, index: int) -> Item:
    return _item(EXERCISES[kind](Random(f"builtin-{kind}/{seed}/{split}/{index}"), split == "val"))


def _conversation(item: Item) -> Conversation:
    return answered(item, item.meta["reply"])


def _generated(kind: str, check: Callable[[Item, str], Score], baseline: float = 0.0) -> Task:
    items = partial(_items, kind)
    return Task(f"builtin-{kind}", "generate", baseline, _MAX_NEW_TOKENS, items, check, _conversation)


def _novel(name: str, check: Callable[[Item, str], Score]) -> Task:
    return Task(name, "generate", 0.0, _MAX_NEW_TOKENS, partial(_test_items, name), check)


BUILTIN_TASKS = (
    _generated("facts", check_fact),
    _novel("builtin-facts-novel", check_fact),
    _generated("follow-ups", check_fact),
    _generated("arithmetic", check_number),
    _generated("letters", check_letter_count),
    _generated("spelling", check_spelling),
    _generated("identity", check_phrase),
    _novel("builtin-origin", check_phrase),
    _generated("refusal", check_phrase),
    _generated("choice", check_named_choice, baseline=0.25),
)
