"""What the answers to a task's items amount to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from nanochat.eval.intervals import Interval, accuracy_interval, centred, pass_at
from nanochat.eval.result_cache import TaskRecord
from nanochat.tasks.task import Item, Task

KEPT_FAILURES = 3


@dataclass(frozen=True)
class Failure:
    """A wrong answer, and what is wrong with it."""

    prompt: str
    expected: str
    answer: str
    reason: str


@dataclass(frozen=True)
class PartScore:
    """The accuracy on one part of a task."""

    name: str
    accuracy: float
    interval: Interval
    n: int


@dataclass(frozen=True)
class TaskResult:
    """`baseline` is the accuracy of guessing; `too_long` counts items whose prompt exceeds the context."""

    name: str
    accuracy: float
    interval: Interval
    n: int
    baseline: float
    too_long: int
    failures: tuple[Failure, ...]
    pass_at: dict[int, float] = field(default_factory=dict)
    """If several answers were sampled: the probability that k of them hold a right one, by k."""
    parts: tuple[PartScore, ...] = ()
    """By name, if the task has parts."""

    @property
    def right(self) -> int:
        """How many items are right."""
        return round(self.accuracy * self.n)

    @property
    def centred(self) -> float:
        """The accuracy rescaled to 0 for guessing and 1 for all right."""
        return centred(self.accuracy, self.baseline)


def result_of(task: Task, items: Sequence[Item], record: TaskRecord, samples: int) -> TaskResult:
    """The result of a task, from its record; `samples` is the number of answers to each item."""
    failures = [row for row in record.rows if not row.right][:KEPT_FAILURES]
    return TaskResult(
        name=task.name,
        accuracy=record.accuracy,
        interval=accuracy_interval(record.right, record.n),
        n=record.n,
        baseline=task.baseline,
        too_long=sum(row.too_long for row in record.rows),
        failures=tuple(
            Failure(str(items[row.index].messages[-1]["content"]), row.gold, row.prediction, row.reason)
            for row in failures
        ),
        pass_at=_pass_at(record, samples) if samples > 1 else {},
        parts=_parts(record, task.part, items) if task.part else (),
    )


def _parts(record: TaskRecord, part: Callable[[Item], str], items: Sequence[Item]) -> tuple[PartScore, ...]:
    right: dict[str, list[bool]] = {}
    for row in record.rows:
        right.setdefault(part(items[row.index]), []).append(row.right)
    return tuple(
        PartScore(name, fmean(answers), accuracy_interval(sum(answers), len(answers)), len(answers))
        for name, answers in sorted(right.items())
    )


def _pass_at(record: TaskRecord, samples: int) -> dict[int, float]:
    """By k = 1, 2, 4, … up to all samples."""
    right = [sum(score == 1 for score in row.scores) for row in record.rows]
    ks = {*(2**n for n in range(samples.bit_length()) if 2**n <= samples), samples}
    return {k: fmean(pass_at(k, samples, n) for n in right) for k in sorted(ks)}
