"""HumanEval: complete a Python function so that its tests pass (arXiv:2107.03374)."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from nanochat.sandbox.python import check_function
from nanochat.tasks.hub_items import HubItems
from nanochat.tasks.task import RIGHT, Item, Score, Task, user_item

_FENCE = re.compile(r"```([^\n`]*?)[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
_PYTHON = ("", "python", "python3", "py")  # labels of a code block that may be the program
_META = ("task_id", "prompt", "test", "entry_point")


def _item(row: dict[str, Any]) -> Item:
    return user_item(row["prompt"], row["canonical_solution"], meta={key: row[key] for key in _META})


def check(item: Item, text: str, *, unsafe: bool = False) -> Score:
    """Right if the text's function passes the item's tests; `unsafe` as in `check_function`.

    No partial credit: anything else a failing program can show (that it parses, runs), `assert False` shows too.
    """
    name = item.meta["entry_point"]
    tests = f"{_before_definition(item)}\n{item.meta['test']}\ncheck({name})\n"
    verdict = check_function(solution(item, text), name, tests, unsafe=unsafe)
    return RIGHT if verdict.passed else Score(0.0, verdict.reason)


def solution(item: Item, text: str) -> str:
    """The program in a reply: its first block of Python, or all of it if there is none.

    If it defines the function, the prompt's text before the definition (imports, helpers) is put in front; otherwise
    it continues the prompt.
    """
    blocks = (code for language, code in _FENCE.findall(text) if language.lower() in _PYTHON and code.strip())
    code = next(blocks, text)
    if re.search(_definition(item), code, re.MULTILINE):
        return _before_definition(item) + code
    return item.meta["prompt"] + code


def _before_definition(item: Item) -> str:
    start = re.search(_definition(item), item.meta["prompt"], re.MULTILINE)
    assert start is not None, f"{item.meta['task_id']}: the prompt does not define its function"
    return item.meta["prompt"][: start.start()]


def _definition(item: Item) -> str:
    return rf"^def {re.escape(item.meta['entry_point'])}\b"


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
    unsafe_check=partial(check, unsafe=True),
)
