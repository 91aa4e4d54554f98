"""The CORE bundle: the tasks' questions on disk, and how to come by them.

A bundle is a directory of `core.yaml` (the tasks), `eval_meta_data.csv` (what guessing scores on each, in percent)
and `eval_data/**.jsonl`:

    multiple_choice     query, choices, gold
    schema              context_options, continuation, gold
    language_modeling   context, continuation
"""

import csv
import json
import random
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nanochat.hub import fetch_url
from nanochat.paths import Paths

BUNDLE_URL = "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip"

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


@dataclass(frozen=True)
class CoreTask:
    """A task of the bundle, its items shuffled. `baseline` is what guessing scores, in [0, 1)."""

    label: str
    kind: str
    shots: int
    delimiter: str
    baseline: float
    items: Sequence[dict[str, Any]]


def load_bundle(bundle: Path) -> list[CoreTask]:
    """The tasks whose data is there, in the bundle's order. Raises ValueError for what is not such a bundle."""
    try:
        listed = yaml.safe_load((bundle / "core.yaml").read_text(encoding="utf-8"))["icl_tasks"]
        with open(bundle / "eval_meta_data.csv", encoding="utf-8", newline="") as file:
            baselines = {
                row["Eval Task"]: float(row["Random baseline"]) / 100 for row in csv.DictReader(file)
            }
    except (FileNotFoundError, NotADirectoryError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise ValueError(
            f"no CORE bundle in {bundle} ({error}): it must hold core.yaml, eval_meta_data.csv and eval_data/"
        ) from None
    tasks = []
    for entry in listed:
        path = bundle / "eval_data" / entry["dataset_uri"]
        if not path.is_file():
            continue
        items = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        random.Random(_DATA_SEED).shuffle(items)
        tasks.append(
            CoreTask(
                label=entry["label"],
                kind=entry["icl_task_type"],
                shots=entry["num_fewshot"][0],
                delimiter=entry.get("continuation_delimiter", " "),
                baseline=baselines[entry["label"]],
                items=items,
            )
        )
    return tasks


def fetch_bundle(paths: Paths, url: str = BUNDLE_URL) -> Path:
    """`paths.eval_bundle`, fetched and unpacked if it is not there. Raises EnvironmentFault where it cannot be had."""
    bundle = paths.eval_bundle
    if not bundle.is_dir():
        archive = fetch_url(url, paths.base / "eval_bundle.zip", check=_check_zip)
        with tempfile.TemporaryDirectory(dir=paths.base) as folder:
            with zipfile.ZipFile(archive) as file:
                file.extractall(folder)
            [core] = Path(folder).rglob("core.yaml")
            shutil.move(core.parent, bundle)
        archive.unlink()
    return bundle


def _check_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
            whole = any(Path(name).name == "core.yaml" for name in file.namelist())
    except zipfile.BadZipFile as error:
        raise ValueError(f"it is no zip archive: {error}") from None
    if damaged or not whole:
        raise ValueError(f"{damaged} in it is damaged" if damaged else "there is no core.yaml in it")
