"""ARC: multiple-choice science questions of grade school (arXiv:1803.05457), an easy and a challenging set."""

from __future__ import annotations

import pyarrow.parquet as pq

from nanochat.builtin.choice import LETTERS, choice_prompt
from nanochat.hub import hub_parquet
from nanochat.paths import Paths
from nanochat.tasks.task import Item, Task, is_choice, user_item

REPO = "allenai/ai2_arc"


def arc_easy(paths: Paths) -> Task:
    return _arc("arc-easy", "ARC-Easy", paths)


def arc_challenge(paths: Paths) -> Task:
    return _arc("arc-challenge", "ARC-Challenge", paths)


def _arc(name: str, config: str, paths: Paths) -> Task:
    rows = pq.read_table(hub_parquet(REPO, config, "test", paths)).to_pylist()
    return Task(name, "choice", 0.25, [_item(row) for row in rows], is_choice, max_new_tokens=1)


def _item(row: dict) -> Item:
    texts, labels = row["choices"]["text"], row["choices"]["label"]  # labelled A, B, … or 1, 2, …
    answer = LETTERS[labels.index(row["answerKey"])]
    return user_item(choice_prompt(row["question"], texts), answer, tuple(LETTERS[: len(texts)]))
