"""`nanochat eval compare A B`: whether B is better than A, item by item, from the answers kept beside both.

Runs no model. An item counts in a task's comparison if both have answered it, from the same data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Annotated

import tyro

from nanochat.checkpoint import store
from nanochat.checkpoint.loading import find_model
from nanochat.config import json_line
from nanochat.console import say, table
from nanochat.eval.intervals import (
    Interval,
    Judgement,
    Pairs,
    difference_interval,
    mcnemar,
    mean_difference_interval,
    mean_difference_p,
    pairs_of,
    verdict,
)
from nanochat.eval.result_cache import ItemRow, task_records
from nanochat.paths import Paths

_MAY_DIFFER = ("device", "dtype", "weights", "tokenizer", "items")
"""Settings that may differ between two answers that are compared."""


@dataclass(frozen=True)
class CompareConfig:
    """Compare the kept answers of two checkpoints."""

    first: Annotated[str, tyro.conf.Positional]
    """A run: its model tag, or the path of its checkpoints; RUN@STEP for another checkpoint than the newest."""
    second: Annotated[str, tyro.conf.Positional]
    """The run to compare with it."""


@dataclass(frozen=True)
class TaskComparison:
    """One task. `difference` is the second's accuracy less the first's, `p` McNemar's."""

    name: str
    n: int
    first: float
    second: float
    difference: float
    interval: Interval
    p: float
    verdict: Judgement


@dataclass(frozen=True)
class CompareResult:
    """`mean_difference` is that of the mean centred accuracies of all tasks, with its interval and p."""

    first: str
    second: str
    tasks: tuple[TaskComparison, ...]
    mean_difference: float
    interval: Interval
    p: float
    verdict: Judgement


@dataclass(frozen=True)
class _Answers:
    """The rows of one task by item."""

    baseline: float
    rows: dict[int, ItemRow]


def run_compare(config: CompareConfig, paths: Paths) -> CompareResult:
    """Run the verb. Raises ValueError for an unknown run or step, and if both have no task in common."""
    (first, ours), (second, theirs) = (_kept(name, paths) for name in (config.first, config.second))
    paired = {
        name: both for name in ours if name in theirs and (both := _best_pair(ours[name], theirs[name]))
    }
    if not paired:
        raise ValueError(
            f"no answers of {first} and {second} to the same items: run `nanochat eval chat --model-tag RUN` "
            "(or eval base) for both, with the same limits of items"
        )
    compared = [(name, *_pairs(a, b), a.baseline) for name, (a, b) in paired.items()]
    centred = [(pairs, baseline) for _, pairs, _, baseline in compared]
    interval, p = mean_difference_interval(centred), mean_difference_p(centred)
    result = CompareResult(
        first=first,
        second=second,
        tasks=tuple(_compare(name, pairs, accuracy) for name, pairs, accuracy, _ in compared),
        mean_difference=fmean(pairs.difference / (1 - baseline) for _, pairs, _, baseline in compared),
        interval=interval,
        p=p,
        verdict=verdict(interval, p),
    )
    _show(result)
    return result


def _kept(name: str, paths: Paths) -> tuple[str, dict[str, dict[str, list[_Answers]]]]:
    """A checkpoint's name, and its answers by task and by what two answers must have in common to be compared."""
    directory, step = find_model(name, paths)
    if step is None:
        step = store.require_latest(directory)
    weights = store.load_meta(directory, step).files["model"].sha256
    answers: dict[str, dict[str, list[_Answers]]] = {}
    for task, key, record in task_records(directory, step, weights):
        rows = {row.index: row for row in record.rows}
        alike = {name: value for name, value in key.settings.items() if name not in _MAY_DIFFER}
        group = json_line([key.data, alike])
        answers.setdefault(task, {}).setdefault(group, []).append(_Answers(record.baseline, rows))
    return f"{directory.resolve().name}@{step}", answers


def _best_pair(
    ours: dict[str, list[_Answers]], theirs: dict[str, list[_Answers]]
) -> tuple[_Answers, _Answers] | None:
    """The two records of one task with the most items in common, if they have any."""
    every = [(a, b) for group in ours for a in ours[group] for b in theirs.get(group, [])]
    best = max(every, key=_shared, default=None)
    return best if best and _shared(best) else None


def _shared(pair: tuple[_Answers, _Answers]) -> int:
    return len(pair[0].rows.keys() & pair[1].rows.keys())


def _pairs(a: _Answers, b: _Answers) -> tuple[Pairs, tuple[float, float]]:
    """The counts of pairs, and both accuracies."""
    both = sorted(a.rows.keys() & b.rows.keys())
    first, second = ([answers.rows[index].right for index in both] for answers in (a, b))
    return pairs_of(first, second), (fmean(first), fmean(second))


def _compare(name: str, pairs: Pairs, accuracy: tuple[float, float]) -> TaskComparison:
    interval, p = difference_interval(pairs), mcnemar(pairs)
    return TaskComparison(name, pairs.n, *accuracy, pairs.difference, interval, p, verdict(interval, p))


def _show(result: CompareResult) -> None:
    rows = [
        (
            task.name,
            f"{task.n:,}",
            f"{task.first:.1%}",
            f"{task.second:.1%}",
            *_signed(task.difference, task.interval),
            f"{task.p:.2g}",
            task.verdict,
        )
        for task in result.tasks
    ]
    mean = (
        "mean, centred",
        "",
        "",
        "",
        *_signed(result.mean_difference, result.interval),
        f"{result.p:.2g}",
        result.verdict,
    )
    title = f"A: {result.first}, B: {result.second}, on the same items"
    columns = ("task", "items", "A", "B", "B - A", "95 %", "p", "B is")
    table(title, columns, [*rows, mean])
    if _by_chance(result.tasks):
        say("of twenty tasks without a difference about one seems to have one: judge by the mean")


def _signed(difference: float, interval: Interval) -> Sequence[str]:
    return f"{100 * difference:+.1f}", f"{100 * interval.low:+.1f} to {100 * interval.high:+.1f}"


def _by_chance(tasks: Sequence[TaskComparison]) -> bool:
    return len(tasks) > 1 and any(task.verdict != "noise" for task in tasks)
