"""The table of task scores that both evaluations print."""

from collections.abc import Sequence
from dataclasses import dataclass

from nanochat.console import console, table
from nanochat.eval.intervals import Interval

_WIDTH = 24  # characters of a bar
_ROOM_FOR_BARS = 110  # columns of a terminal
_COLUMNS = ("task", "items", "accuracy", "95 %", "guessing", "centred", "0 … 100 %")


@dataclass(frozen=True)
class ScoreLine:
    """One task's line."""

    name: str
    accuracy: float
    interval: Interval
    n: int
    baseline: float
    centred: float


def show_scores(title: str, lines: Sequence[ScoreLine], skipped: Sequence[str] = ()) -> None:
    """Print the table, skipped tasks last. Intervals are numbers and, where there is room, bars."""
    rows: list[tuple[str, ...]] = [
        (
            line.name,
            f"{line.n:,}",
            f"{line.accuracy:.1%}",
            percentages(line.interval),
            f"{line.baseline:.1%}",
            f"{line.centred:.4f}",
            bar(line.accuracy, line.interval, line.baseline),
        )
        for line in lines
    ]
    rows += [(name, "skipped", *[""] * (len(_COLUMNS) - 2)) for name in skipped]
    shown = len(_COLUMNS) - (console().width < _ROOM_FOR_BARS)
    table(title, _COLUMNS[:shown], [row[:shown] for row in rows])


def percentages(interval: Interval) -> str:
    """An interval of accuracies in words of a table, `12.0–34.5`."""
    return f"{100 * interval.low:.1f}–{100 * interval.high:.1f}"


def bar(accuracy: float, interval: Interval, baseline: float) -> str:
    """An accuracy (●) with its interval (━) between 0 and 1, and guessing (┊)."""
    cells = ["·"] * _WIDTH
    low, high, guess, middle = (
        min(int(max(share, 0.0) * _WIDTH), _WIDTH - 1)
        for share in (interval.low, interval.high, baseline, accuracy)
    )
    cells[low : high + 1] = "━" * (high + 1 - low)
    cells[guess] = "┊"
    cells[middle] = "●"
    return "".join(cells)
