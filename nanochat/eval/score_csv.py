"""The scores of an evaluation as csv, one line a number, for spreadsheets and plots."""

import csv
import io
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from nanochat.atomic import write_text_atomic
from nanochat.console import warn
from nanochat.errors import EnvironmentFault
from nanochat.eval.intervals import Interval


@dataclass(frozen=True)
class CsvLine:
    """One score; what does not apply is empty."""

    name: str
    """Of the task, the text or the mean."""
    part: str
    """The subject or source, "" for the whole."""
    measure: str
    value: float
    low: float | None = None
    high: float | None = None
    items: int | None = None
    """Or documents."""
    guessing: float | None = None
    standard_error: float | None = None


def accuracy_line(
    name: str, accuracy: float, interval: Interval, items: int, guessing: float, part: str = ""
) -> CsvLine:
    """An accuracy."""
    return CsvLine(name, part, "accuracy", accuracy, interval.low, interval.high, items, guessing)


def write_scores(path: Path, lines: Iterable[CsvLine]) -> None:
    """Write the file anew; where that is impossible, warn."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(CsvLine))
    writer.writerows(map(astuple, lines))
    try:
        write_text_atomic(path, text.getvalue())
    except EnvironmentFault as error:
        warn(f"scores are not written: {error}")
