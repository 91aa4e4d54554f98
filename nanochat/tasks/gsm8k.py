"""GSM8K: grade-school word problems (arXiv:2110.14168); the answer follows `####`."""

from __future__ import annotations

import re
from typing import Any

from nanochat.sandbox.calculator import evaluate
from nanochat.tasks.checks import is_number, last_number, to_number
from nanochat.tasks.hub_items import HubItems
from nanochat.tasks.task import Item, Score, Task, answered, user_item
from nanochat.tokenizer.chat_format import Conversation

UNMARKED = 0.5
"""Partial credit for the right number without its `####`."""

_MARKED = re.compile(r"####\s*\$?(-?[\d,]*\.?\d+)")
_CALL = re.compile(r"<<([^<>=]+)=([^<>]*)>>")


def _item(row: dict[str, Any]) -> Item:
    answer = row["answer"].split("####")[1].strip()
    return user_item(row["question"], answer, meta={"solution": row["answer"]})


def check(item: Item, text: str) -> Score:
    """Right if the number after the first `####` is the answer; WELL_FORMED for another number there.

    Without a number after `####`, UNMARKED if the text's last number is the answer.
    """
    marked = _MARKED.search(text)
    if marked is not None:
        return is_number(to_number(marked.group(1)), item.answer)
    if last_number(text) == to_number(item.answer):
        return Score(UNMARKED, "right, but not after ####")
    return Score(0.0, "no number after ####")


def _conversation(item: Item) -> Conversation:
    return answered(item, solution_parts(item.meta["solution"]))


def solution_parts(solution: str) -> list[dict[str, str]]:
    """GSM8K's `<<48/2=24>>` as tool calls with our own tool's output, the rest as text."""
    parts: list[dict[str, str]] = []
    for i, piece in enumerate(_CALL.split(solution)):  # text, expression, result, text, …
        if i % 3 == 0 and piece:
            parts.append({"type": "text", "text": piece})
        elif i % 3 == 1:
            parts.append({"type": "python", "text": piece})
        elif i % 3 == 2:
            parts.append({"type": "python_output", "text": evaluate(parts[-1]["text"]) or piece})
    return parts


GSM8K = Task(
    name="gsm8k",
    kind="generate",
    baseline=0.0,
    max_new_tokens=512,
    items=HubItems(
        "openai/gsm8k",
        "main",
        {"train": "train", "val": "test", "test": "test"},
        ("question", "answer"),
        _item,
    ),
    check=check,
    conversation=_conversation,
)
