"""HumanEval: complete a Python function so that its tests pass (arXiv:2107.03374)."""

from __future__ import annotations

import re
import secrets
from typing import Any

from nanochat.sandbox.python import Execution, run_python
from nanochat.tasks.hub_items import HubItems
from nanochat.tasks.task import RIGHT, Item, Score, Task, user_item

_FENCE = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)
_META = ("task_id", "prompt", "test", "entry_point")


def _item(row: dict[str, Any]) -> Item:
    return user_item(row["prompt"], row["canonical_solution"], meta={key: row[key] for key in _META})


def check(item: Item, text: str) -> Score:
    """Right if the item's tests pass with the function that the text gives.

    There is no partial credit: whatever else a program can show without passing, `assert False` shows as well.
    """
    # Proof that the tests were reached: a solution may well end the program before them.
    proof = secrets.token_hex(8)
    tests = f"{item.meta['test']}\ncheck({item.meta['entry_point']})\nprint({proof!r})\n"
    execution = run_python(f"{solution(item, text)}\n{tests}")
    if execution.ok and execution.stdout.endswith(f"{proof}\n"):
        return RIGHT
    return Score(0.0, _failure(execution))


def _failure(execution: Execution) -> str:
    """The last line of the traceback, or how else the program ended."""
    if execution.timed_out:
        return "timed out"
    if execution.ok:
        return "ended before its tests"
    lines = execution.stderr.strip().splitlines()
    return lines[-1] if lines else "ended with an error status and no message"


def solution(item: Item, text: str) -> str:
    """The program that a reply means: its first fenced block, or all of it.

    A reply that defines the function follows what the prompt has before it (imports, helpers); one that does not
    continues the prompt.
    """
    fenced = _FENCE.search(text)
    code = fenced.group(1) if fenced else text
    definition = re.compile(rf"^def {re.escape(item.meta['entry_point'])}\b", re.MULTILINE)
    prompt = item.meta["prompt"]
    if not definition.search(code):
        return prompt + code
    start = definition.search(prompt)
    assert start is not None, f"{item.meta['task_id']}: the prompt does not define its function"
    return prompt[: start.start()] + code


HUMANEVAL = Task(
    name="humaneval",
    kind="generate",
    baseline=0.0,
    max_new_tokens=512,
    items=HubItems(
        "openai/openai_humaneval",
        "openai_humaneval",
        {"test": "test"},
        (*_META, "canonical_solution"),
        _item,
    ),
    check=check,
)
