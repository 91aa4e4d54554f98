"""A task's prompts in the parquet format that verl trains from, and the function with which it scores replies.

A row has verl's columns: data_source, prompt (role and content), ability, reward_model (style, ground_truth) and
extra_info (split, index, and for us the task and the whole item as JSON, so that `compute_score` is the task's check).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat.atomic import write_atomic
from nanochat.config import json_line, parse_json
from nanochat.console import progress, say
from nanochat.paths import Paths, expanded
from nanochat.tasks.registry import TASKS
from nanochat.tasks.task import Item, ItemSplit, Task
from nanochat.tokenizer.special import ASSISTANT_END, OUTPUT_END

PromptFormat = Literal["verl"]
_SPLITS: tuple[ItemSplit, ...] = ("train", "val")
_ROW_GROUP = 1024

_MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
_SCHEMA = pa.schema(
    [
        ("data_source", pa.string()),
        ("prompt", pa.list_(_MESSAGE)),
        ("ability", pa.string()),
        ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
        (
            "extra_info",
            pa.struct(
                [("split", pa.string()), ("index", pa.int64()), ("task", pa.string()), ("item", pa.string())]
            ),
        ),
    ]
)


@dataclass(frozen=True)
class _Known:
    """A benchmark that verl itself can score: its name there, and the form in which verl wants the answer."""

    data_source: str
    ground_truth: Callable[[str], str]


_KNOWN_TO_VERL: Mapping[str, _Known] = {
    "gsm8k": _Known("openai/gsm8k", lambda answer: answer.replace(",", "")),
}


def verl_row(task: Task, split: ItemSplit, index: int, item: Item) -> dict[str, Any]:
    """An item as a row."""
    known = _KNOWN_TO_VERL.get(task.name, _Known(f"nanochat/{task.name}", str))
    return {
        "data_source": known.data_source,
        "prompt": [
            {"role": message["role"], "content": _text(message["content"])} for message in item.messages
        ],
        "ability": task.name,
        "reward_model": {"style": "rule", "ground_truth": known.ground_truth(item.answer)},
        "extra_info": {"split": split, "index": index, "task": task.name, "item": json_line(item)},
    }


def item_of(row: Mapping[str, Any]) -> tuple[Task, Item]:
    """The task and the item of a row. Raises ValueError for a row that we did not write."""
    info = row.get("extra_info") or {}
    if info.get("task") not in TASKS or "item" not in info:
        raise ValueError("the row's extra_info has no task and item of ours")
    item = parse_json(info["item"])
    return TASKS[info["task"]], Item(
        tuple(item["messages"]), item["answer"], tuple(item["choices"]), item["meta"]
    )


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: Mapping[str, Any], **_: Any
) -> float:
    """verl's custom reward function: the task's score of a reply, 1 if right.

    As in `nanochat rl`, what follows the last tool output counts, where the decoded reply shows special tokens.
    """
    task, item = item_of({"extra_info": extra_info})
    answer = solution_str.rsplit(OUTPUT_END, 1)[-1].removesuffix(ASSISTANT_END)
    return task.check(item, answer).value


def write_prompts(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Atomically write rows; returns their number."""
    written = 0

    def fill(file: BinaryIO) -> None:
        nonlocal written
        remaining = iter(rows)
        with pq.ParquetWriter(file, _SCHEMA, compression="zstd") as writer:
            while group := list(islice(remaining, _ROW_GROUP)):
                writer.write_table(pa.Table.from_pylist(group, schema=_SCHEMA))
                written += len(group)

    write_atomic(path, fill)
    return written


def _text(content: str | list[dict[str, str]]) -> str:
    """A content as verl's one string: of an earlier answer with tool calls, what it said."""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


# ---- data prompts


@dataclass(frozen=True)
class PromptsConfig:
    """Write a task's prompts for reinforcement by another program: OUT/train.parquet and OUT/val.parquet."""

    task: str = "builtin-thousands"
    """A task that `nanochat rl` takes."""
    format: PromptFormat = "verl"
    out: str = "prompts"
    """The folder."""
    seed: int = 42
    """Seed of generated items; use that of `nanochat rl`."""

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"unknown task {self.task!r}: choose from {', '.join(TASKS)}")


@dataclass(frozen=True)
class PromptsResult:
    """The files and their numbers of prompts, by split."""

    files: dict[ItemSplit, Path]
    prompts: dict[ItemSplit, int]


def run_prompts(config: PromptsConfig, paths: Paths) -> PromptsResult:
    """Write the files. Raises ValueError for a task without training items, EnvironmentFault without its data."""
    task, folder = TASKS[config.task], expanded(config.out).absolute()
    items = {split: task.items(paths, split, config.seed) for split in _SPLITS}  # all, before any is written
    files = {split: folder / f"{split}.parquet" for split in _SPLITS}
    folder.mkdir(parents=True, exist_ok=True)
    prompts = {split: write_prompts(files[split], _rows(task, split, items[split])) for split in _SPLITS}
    say(f"{prompts['train']:,} prompts of {task.name} and {prompts['val']:,} held out: {folder}")
    say(f"verl's reward function is compute_score of {__file__}")
    return PromptsResult(files, prompts)


def _rows(task: Task, split: ItemSplit, items: Any) -> Iterator[dict[str, Any]]:
    with progress(f"{split} prompts", len(items), "prompts") as shown:
        for index, item in enumerate(items):
            yield verl_row(task, split, index, item)
            shown.update(index + 1)
