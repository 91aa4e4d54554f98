"""MMLU: multiple-choice questions on 57 subjects, from school to profession (arXiv:2009.03300)."""

from __future__ import annotations

import pyarrow.parquet as pq

from nanochat.builtin.choice import LETTERS, choice_prompt
from nanochat.hub import hub_parquet
from nanochat.paths import Paths
from nanochat.tasks.task import Item, Task, is_choice, user_item


def mmlu(paths: Paths) -> Task:
    rows = pq.read_table(hub_parquet("cais/mmlu", "all", "test", paths)).to_pylist()
    return Task("mmlu", "choice", 0.25, [_item(row) for row in rows], is_choice, max_new_tokens=1)


def _item(row: dict) -> Item:
    return user_item(
        choice_prompt(row["question"], row["choices"]),
        LETTERS[row["answer"]],
        tuple(LETTERS[: len(row["choices"])]),
        {"subject": row["subject"]},
    )
