"""Reads the questions of a CORE bundle, which is data from outside (bundle_files.py has the download).

A bundle is a directory of `core.yaml` (the tasks), `eval_meta_data.csv` (the score of guessing on each, in percent)
and `eval_data/**.jsonl`:

    multiple_choice     query, choices, gold
    schema              context_options, continuation, gold
    language_modeling   context, continuation
"""

import csv
import io
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, fields
from os.path import realpath
from pathlib import Path
from typing import Any, Literal

import yaml

from nanochat.atomic import sha256_of
from nanochat.config import from_json, parse_json

CORE_TASKS = (
    "hellaswag_zeroshot",
    "jeopardy",
    "bigbench_qa_wikidata",
    "arc_easy",
    "arc_challenge",
    "copa",
    "commonsense_qa",
    "piqa",
    "openbook_qa",
    "lambada_openai",
    "hellaswag",
    "winograd",
    "winogrande",
    "bigbench_dyck_languages",
    "agi_eval_lsat_ar",
    "bigbench_cs_algorithms",
    "bigbench_operators",
    "bigbench_repeat_copy_logic",
    "squad",
    "coqa",
    "boolq",
    "bigbench_language_identification",
)

_DATA_SEED = 1337  # shuffles a task's items


CoreKind = Literal["multiple_choice", "schema", "language_modeling"]


@dataclass(frozen=True)
class CoreTask:
    """A task of the bundle, its items shuffled. `baseline` is the accuracy of guessing, in [0, 1)."""

    label: str
    kind: CoreKind
    shots: int
    delimiter: str
    baseline: float
    items: Sequence[dict[str, Any]]
    sha256: str
    """Of the data's file."""


@dataclass(frozen=True)
class CoreEntry:
    """An entry of core.yaml; `dataset_uri` is a path below eval_data."""

    label: str
    dataset_uri: str
    icl_task_type: CoreKind
    num_fewshot: tuple[int, ...]
    continuation_delimiter: str = " "


# The fields of an item by kind, in order: a text, the candidate texts, the index of the correct one.
_ITEM_FIELDS: dict[CoreKind, dict[str, type]] = {
    "multiple_choice": {"query": str, "choices": list, "gold": int},
    "schema": {"continuation": str, "context_options": list, "gold": int},
    "language_modeling": {"context": str, "continuation": str},
}


def load_bundle(bundle: Path) -> list[CoreTask]:
    """The tasks whose data is present, in the bundle's order.

    Raises ValueError, naming file and entry or line, for a malformed bundle.
    """
    entries = _read_entries(bundle / "core.yaml")
    baselines = _read_baselines(bundle / "eval_meta_data.csv")
    tasks = []
    for entry in entries:
        path = _data_path(bundle, entry)
        if not path.is_file():
            continue
        if entry.label not in baselines:
            raise ValueError(f"{bundle / 'eval_meta_data.csv'} has no baseline for {entry.label!r}")
        shots = entry.num_fewshot[0]
        items = _read_items(path, entry.icl_task_type)
        if len(items) <= shots:
            raise ValueError(f"{path} holds {len(items)} items, too few for {shots} examples before each")
        random.Random(_DATA_SEED).shuffle(items)
        tasks.append(
            CoreTask(
                label=entry.label,
                kind=entry.icl_task_type,
                shots=shots,
                delimiter=entry.continuation_delimiter,
                baseline=baselines[entry.label],
                items=items,
                sha256=sha256_of(path),
            )
        )
    return tasks


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(
            f"no CORE bundle in {path.parent}: it must hold core.yaml, eval_meta_data.csv and eval_data/"
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from None


def _read_entries(path: Path) -> list[CoreEntry]:
    try:
        listed = yaml.safe_load(_read_text(path))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    tasks = listed.get("icl_tasks") if isinstance(listed, dict) else None
    if not isinstance(tasks, list):
        raise ValueError(f"{path} has no list of tasks under icl_tasks")
    known = {field.name for field in fields(CoreEntry)}
    entries = []
    for number, task in enumerate(tasks, start=1):
        if isinstance(task, dict):
            task = {key: value for key, value in task.items() if key in known}
        try:
            entry = from_json(CoreEntry, task)
        except ValueError as error:
            raise ValueError(f"{path}, entry {number}: {error}") from None
        if not entry.num_fewshot or entry.num_fewshot[0] < 0:
            raise ValueError(f"{path}, entry {number}: num_fewshot must begin with a number of examples")
        entries.append(entry)
    return entries


def _data_path(bundle: Path, entry: CoreEntry) -> Path:
    """The entry's file. Raises ValueError unless it is below eval_data after resolving symbolic links."""
    root = bundle / "eval_data"
    path = root / entry.dataset_uri
    if "\0" in entry.dataset_uri or not Path(realpath(path)).is_relative_to(realpath(root)):
        raise ValueError(
            f"{bundle / 'core.yaml'}: the data of {entry.label!r}, {entry.dataset_uri!r}, lies outside {root}"
        )
    return path


def _read_baselines(path: Path) -> dict[str, float]:
    baselines = {}
    for number, row in enumerate(csv.DictReader(io.StringIO(_read_text(path), newline="")), start=2):
        try:
            baseline = float(row["Random baseline"]) / 100
            baselines[row["Eval Task"]] = baseline
        except (KeyError, TypeError, ValueError):
            baseline = math.nan
        if not 0 <= baseline < 1:
            raise ValueError(
                f"{path}, line {number}: each row needs a name under 'Eval Task' and a percentage below 100 under "
                "'Random baseline'"
            )
    return baselines


def _read_items(path: Path, kind: CoreKind) -> list[dict[str, Any]]:
    items = []
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            item = parse_json(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number} is not JSON: {error}") from None
        if not _is_item(item, kind):
            raise ValueError(f"{path}, line {number}: a {kind} item has {', '.join(_ITEM_FIELDS[kind])}")
        items.append(item)
    return items


def _is_item(item: Any, kind: CoreKind) -> bool:
    wanted = _ITEM_FIELDS[kind]
    if not isinstance(item, dict) or not all(isinstance(item.get(key), wanted[key]) for key in wanted):
        return False
    options = [option for key in wanted if wanted[key] is list for option in item[key]]
    return all(isinstance(option, str) for option in options) and (
        "gold" not in wanted or 0 <= item["gold"] < len(options)
    )
