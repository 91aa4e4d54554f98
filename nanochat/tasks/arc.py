"""ARC: grade-school science, multiple choice, an easy and a challenging set (arXiv:1803.05457)."""

from __future__ import annotations

from typing import Any

from nanochat.builtin.choice import LETTERS, choice_prompt
from nanochat.tasks.checks import is_choice
from nanochat.tasks.hub_items import HubItems
from nanochat.tasks.task import Item, Task, answered_by_letter, user_item


def _item(row: dict[str, Any]) -> Item:
    texts, labels = row["choices"]["text"], row["choices"]["label"]  # labelled A, B, … or 1, 2, …
    answer = LETTERS[labels.index(row["answerKey"])]
    return user_item(choice_prompt(row["question"], texts), answer, tuple(LETTERS[: len(texts)]))


def _arc(name: str, config: str) -> Task:
    return Task(
        name=name,
        kind="choice",
        baseline=0.25,
        max_new_tokens=1,
        items=HubItems(
            "allenai/ai2_arc",
            config,
            {"train": "train", "val": "validation", "test": "test"},
            ("question", "choices", "answerKey"),
            _item,
        ),
        check=is_choice,
        conversation=answered_by_letter,
    )


ARC_EASY = _arc("arc-easy", "ARC-Easy")
ARC_CHALLENGE = _arc("arc-challenge", "ARC-Challenge")
