"""Sums and differences of four-digit numbers, by the tool; fine-tuning teaches only up to three digits.

A task for reinforcement learning: a fine-tuned model is right now and then, so there is something to reinforce.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from random import Random

from nanochat.builtin.arithmetic import Problem, ask, tool_answer
from nanochat.builtin.holdout import held_out_sum
from nanochat.paths import Paths
from nanochat.tasks.builtin_tasks import check_number
from nanochat.tasks.on_demand import OnDemand
from nanochat.tasks.task import Item, ItemSplit, Task, answered, user_item
from nanochat.tokenizer.chat_format import Conversation

TEST_ITEMS = 250
_DRAWN_ITEMS: dict[ItemSplit, int] = {"train": 10_000, "val": 250, "test": TEST_ITEMS}


def _items(paths: Paths, split: ItemSplit, seed: int) -> Sequence[Item]:
    return OnDemand(range(_DRAWN_ITEMS[split]), partial(_draw, split, 0 if split == "test" else seed))


def _draw(split: ItemSplit, seed: int, index: int) -> Item:
    """A problem from the training or the held-out side, by the two numbers and the operation."""
    rng = Random(f"builtin-thousands/{seed}/{split}/{index}")
    while True:
        a, b = rng.randint(1000, 9999), rng.randint(1000, 9999)
        problem = Problem(a, "+", b) if rng.random() < 0.5 else Problem(max(a, b), "-", min(a, b))
        if held_out_sum(problem.a, problem.op, problem.b) == (split != "train"):
            break
    meta = {"a": str(problem.a), "op": problem.op, "b": str(problem.b)}
    return user_item(ask(rng, problem), str(problem.result), meta=meta)


def _conversation(item: Item) -> Conversation:
    problem = Problem(int(item.meta["a"]), item.meta["op"], int(item.meta["b"]))
    return answered(item, tool_answer(problem))


THOUSANDS = Task("builtin-thousands", "generate", 0.0, 64, _items, check_number, _conversation)
