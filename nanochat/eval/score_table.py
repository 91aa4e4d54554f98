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
    rival: float | None = None
    """Another model's score, a mark (◇) in the bar."""


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
            bar(line.accuracy, line.interval, line.baseline, line.rival),
        )
        for line in lines
    ]
    rows += [(name, "skipped", *[""] * (len(_COLUMNS) - 2)) for name in skipped]
    shown = len(_COLUMNS) - (console().width < _ROOM_FOR_BARS)
    table(title, _COLUMNS[:shown], [row[:shown] for row in rows])


def percentages(interval: Interval) -> str:
    """An interval of accuracies in words of a table, `12.0–34.5`."""
    return f"{100 * interval.low:.1f}–{100 * interval.high:.1f}"


def bar(accuracy: float, interval: Interval, baseline: float, rival: float | None = None) -> str:
    """An accuracy (●) with its interval (━) between 0 and 1, guessing (┊), and another model's (◇)."""
    cells = ["·"] * _WIDTH
    cells[_cell(interval.low) : _cell(interval.high) + 1] = "━" * (
        _cell(interval.high) + 1 - _cell(interval.low)
    )
    cells[_cell(baseline)] = "┊"
    if rival is not None:
        cells[_cell(rival)] = "◇"
    cells[_cell(accuracy)] = "●"
    return "".join(cells)


def _cell(share: float) -> int:
    return min(int(max(share, 0.0) * _WIDTH), _WIDTH - 1)
