"""MMLU: multiple-choice questions on 57 subjects, from school to professional level (arXiv:2009.03300)."""

from __future__ import annotations

from typing import Any

from nanochat.builtin.choice import LETTERS, choice_prompt
from nanochat.tasks.checks import is_choice
from nanochat.tasks.hub_items import HubItems
from nanochat.tasks.task import Item, Task, answered_by_letter, user_item


def subject(item: Item) -> str:
    """The subject of a question, such as `high_school_physics`."""
    return item.meta["subject"]


def _item(row: dict[str, Any]) -> Item:
    return user_item(
        choice_prompt(row["question"], row["choices"]),
        LETTERS[row["answer"]],
        tuple(LETTERS[: len(row["choices"])]),
        {"subject": row["subject"]},
    )


MMLU = Task(
    name="mmlu",
    kind="choice",
    baseline=0.25,
    max_new_tokens=1,
    items=HubItems(
        "cais/mmlu",
        "all",
        {"train": "auxiliary_train", "val": "validation", "test": "test"},
        ("question", "subject", "choices", "answer"),
        _item,
    ),
    check=is_choice,
    conversation=answered_by_letter,
    part=subject,
)
