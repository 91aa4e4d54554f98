"""HumanEval: complete a Python function so that its tests pass (arXiv:2107.03374)."""

from __future__ import annotations

import re
import secrets

import pyarrow.parquet as pq

from nanochat.hub import hub_parquet
from nanochat.paths import Paths
from nanochat.sandbox.python import run_python
from nanochat.tasks.task import Item, Task, user_item

_FENCE = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)


def humaneval(paths: Paths) -> Task:
    rows = pq.read_table(
        hub_parquet("openai/openai_humaneval", "openai_humaneval", "test", paths)
    ).to_pylist()
    return Task("humaneval", "generate", 0.0, [_item(row) for row in rows], passes, max_new_tokens=512)


def _item(row: dict) -> Item:
    meta = {key: row[key] for key in ("task_id", "prompt", "test", "entry_point")}
    return user_item(row["prompt"], row["canonical_solution"], meta=meta)


def passes(item: Item, text: str) -> bool:
    """The tests of the item pass with the function that the text gives."""
    # Proof that the tests were reached: a solution may well end the program before them.
    proof = secrets.token_hex(8)
    check = f"{item.meta['test']}\ncheck({item.meta['entry_point']})\nprint({proof!r})\n"
    execution = run_python(f"{solution(item, text)}\n{check}")
    return execution.ok and execution.stdout.endswith(f"{proof}\n")


def solution(item: Item, text: str) -> str:
    """The program that a reply means: its first fenced block, or all of it.

    A reply that defines the function stands after what the prompt has before it (imports, helpers); one that does
    not goes on where the prompt ends.
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
