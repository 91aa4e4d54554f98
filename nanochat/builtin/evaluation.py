"""Evaluation items: combinations that never occur in training text (see `holdout`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random

from nanochat.builtin.exercises import EXERCISES, Exercise, novel_fact_exercise, novel_origin_exercise

ITEMS_PER_TASK = 250
_DRAWS = 4 * ITEMS_PER_TASK  # some tasks have fewer distinct held-out questions than that


def _held_out(kind: str, rng: Random) -> Exercise:
    return EXERCISES[kind](rng, True)


_MAKERS: dict[str, Callable[[Random], Exercise]] = {
    **{f"builtin-{kind}": partial(_held_out, kind) for kind in EXERCISES},
    "builtin-facts-novel": novel_fact_exercise,
    "builtin-origin": novel_origin_exercise,
}


def evaluation(seed: int = 0) -> dict[str, list[Exercise]]:
    """Items of every builtin task, by task name: at most `ITEMS_PER_TASK` with distinct questions."""
    tasks = {}
    for name, make in _MAKERS.items():
        rng = Random(f"evaluation/{seed}/{name}")
        items: dict[tuple[object, ...], Exercise] = {}
        for _ in range(_DRAWS):
            item = make(rng)
            items.setdefault((*(question for question, _ in item.history), item.prompt), item)
        tasks[name] = list(items.values())[:ITEMS_PER_TASK]
    return tasks
