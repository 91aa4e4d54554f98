"""GSM8K: word problems of grade school (arXiv:2110.14168); the answer stands after `####`."""

from __future__ import annotations

import re

import pyarrow.parquet as pq

from nanochat.hub import hub_parquet
from nanochat.paths import Paths
from nanochat.tasks.task import Item, Task, user_item

_ANSWER = re.compile(r"####\s*\$?(-?[\d,]*\.?\d+)")


def gsm8k(paths: Paths) -> Task:
    rows = pq.read_table(hub_parquet("openai/gsm8k", "main", "test", paths)).to_pylist()
    items = [user_item(row["question"], row["answer"].split("####")[1].strip()) for row in rows]
    return Task("gsm8k", "generate", 0.0, items, check_answer, max_new_tokens=512)


def check_answer(item: Item, text: str) -> bool:
    """The number after the first `####` is the right one."""
    found = _ANSWER.search(text)
    return found is not None and _number(found.group(1)) == _number(item.answer)


def _number(digits: str) -> float:
    return float(digits.replace(",", ""))
