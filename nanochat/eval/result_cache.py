"""A cache of results beside a checkpoint: each kept as soon as it is finished, with what it depends on.

An evaluation that is interrupted and called again repeats nothing that is finished. Task results hold one row an item,
which is what `nanochat eval compare` reads.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from nanochat.atomic import write_text_atomic
from nanochat.checkpoint.loading import OpenCheckpoint
from nanochat.config import finite, from_json, parse_json, to_json
from nanochat.console import warn
from nanochat.errors import EnvironmentFault
from nanochat.paths import kept_results
from nanochat.processes import Processes
from nanochat.runtime import Runtime

SCORER_VERSION = 1
"""A new number for every change that may alter a result: results of other versions are computed again."""

_MOST_OF_A_NAME = 80
T = TypeVar("T")


@dataclass(frozen=True)
class ItemRow:
    """One item's answer."""

    index: int
    """The item's place in its task."""
    prediction: str
    gold: str
    right: bool
    scores: tuple[float | None, ...]
    """Of the options: mean nats in CORE, logits in a multiple-choice task. Of free answers: the check's scores."""
    reason: str = ""
    """What is wrong with a free answer."""
    too_long: bool = False
    """Whether the prompt exceeds the context."""


@dataclass(frozen=True)
class TaskRecord:
    """A task's items; all counts follow from them."""

    baseline: float
    """The accuracy of guessing."""
    rows: tuple[ItemRow, ...]

    @property
    def right(self) -> int:
        """How many items are right."""
        return sum(row.right for row in self.rows)

    @property
    def n(self) -> int:
        """How many items there are."""
        return len(self.rows)

    @property
    def accuracy(self) -> float:
        """The share of right items."""
        return self.right / self.n


@dataclass(frozen=True)
class ResultKey:
    """What a result depends on."""

    weights: str
    """The sha256 of the checkpoint's model file."""
    data: str
    """The sha256 of the task's data."""
    settings: dict[str, Any] = field(default_factory=dict)
    scorer: int = SCORER_VERSION


class ResultCache:
    """The results kept beside one checkpoint.

    Args:
        directory, step: the checkpoint.
        weights: the sha256 of its model file.
        common: settings that every result depends on.
        fresh: compute everything again.
    """

    def __init__(
        self,
        directory: Path,
        step: int,
        weights: str,
        processes: Processes,
        common: dict[str, Any],
        *,
        fresh: bool = False,
    ):
        self.folder = kept_results(directory, step)
        self._weights, self._processes, self._common, self._fresh = weights, processes, common, fresh
        self._writable = True

    def get_or_compute(
        self, name: str, data: str, settings: dict[str, Any], kind: type[T], compute: Callable[[], T]
    ) -> T:
        """The kept result, else that of `compute`, which is kept; every process gets the same.

        Args:
            name: of the task, for the file's name.
            data: the sha256 of what is evaluated on.
            settings: what else the result depends on, besides the common settings.
            kind: the result's dataclass.
            compute: called on every process, returning the same on each.
        """
        key = ResultKey(self._weights, data, {**self._common, **settings})
        path = self.folder / file_name(name, key)
        kept = self._processes.decide(lambda: None if self._fresh else read_result(path, key, kind))
        if kept is not None:
            return kept
        result = compute()
        if self._processes.is_main:
            self._write(path, key, result)
        return result

    def _write(self, path: Path, key: ResultKey, result: Any) -> None:
        if not self._writable:
            return
        try:
            write_text_atomic(path, _text({"key": key, "result": result}) + "\n")
        except EnvironmentFault as error:  # a model in someone else's folder can be evaluated too
            self._writable = False
            warn(f"results are not kept: {error}")


def cache_beside(checkpoint: OpenCheckpoint, runtime: Runtime, *, fresh: bool) -> ResultCache:
    """The results of a checkpoint on this kind of device."""
    common = {
        "device": runtime.device.type,
        "dtype": str(runtime.compute_dtype).removeprefix("torch."),
        "tokenizer": checkpoint.meta.tokenizer,
    }
    weights = checkpoint.meta.files["model"].sha256
    return ResultCache(checkpoint.directory, checkpoint.step, weights, runtime.processes, common, fresh=fresh)


def file_name(name: str, key: ResultKey) -> str:
    """A file's name: readable, and different for each key."""
    digest = hashlib.sha256(_text(key).encode()).hexdigest()
    printable = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:_MOST_OF_A_NAME]  # a bundle's labels come from outside
    return f"{printable}-{digest[:12]}.json"


def read_result(path: Path, key: ResultKey | None, kind: type[T]) -> T | None:
    """A kept result; None if there is none under this key (None: any). A damaged file costs a warning."""
    found = _read(path)
    if found is None or (key is not None and found[0] != key):
        return None
    try:
        return from_json(kind, found[1])
    except ValueError as error:
        warn(f"{path} is damaged and is not used: {error}")
        return None


def task_records(directory: Path, step: int, weights: str) -> Iterator[tuple[str, ResultKey, TaskRecord]]:
    """(task, key, record) of every task kept beside a checkpoint, by this version of the scorer."""
    for path in sorted(kept_results(directory, step).glob("*.json")):
        found = _read(path)
        if found is None or (found[0].weights, found[0].scorer) != (weights, SCORER_VERSION):
            continue
        if "rows" in found[1]:
            record = read_result(path, None, TaskRecord)
            if record is not None and record.rows:
                yield path.name.rpartition("-")[0], found[0], record


def _read(path: Path) -> tuple[ResultKey, dict[str, Any]] | None:
    try:
        content = parse_json(path.read_bytes())
        if not isinstance(content, dict) or not isinstance(content.get("result"), dict):
            raise ValueError("it holds no result")
        return from_json(ResultKey, content.get("key")), content["result"]
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        warn(f"{path} is damaged and is not used: {error}")
        return None


def sha256_of_values(values: Iterable[Any]) -> str:
    """One sha256 over plain values or dataclasses, in their order."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(_text(value).encode() + b"\n")
    return digest.hexdigest()


def _text(value: Any) -> str:
    """JSON in ASCII: texts from outside may hold surrogates, which have no UTF-8."""
    return json.dumps(finite(to_json(value)), sort_keys=True)
