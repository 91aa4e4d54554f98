"""Human-readable output on stderr: lines, warnings, tables, progress. Stdout is for results."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import rich.console
    import rich.progress

PLAIN_INTERVAL_S = 10.0  # between progress lines without a terminal
RATE_WINDOW = 64  # updates over which the rate is averaged


@cache
def console() -> rich.console.Console:
    """The console on stderr. Under torchrun only rank 0 prints."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, quiet=os.environ.get("RANK", "0") != "0")


def say(message: str) -> None:
    """Print one plain line."""
    console().print(message, markup=False, soft_wrap=True)


def warn(message: str) -> None:
    """Print one line that starts with `warning:`."""
    console().print(f"warning: {message}", markup=False, soft_wrap=True, style="yellow")


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table of plain cells."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(title=Text(title), title_justify="left")
    for column in columns:
        grid.add_column(Text(column), overflow="fold")  # on a narrow terminal no cell loses its end
    for row in rows:
        grid.add_row(*(Text(str(cell)) for cell in row))
    console().print(grid)


def amount(value: float) -> str:
    """A number in short form, readable while it changes: 950, 12.3k, 4.56M."""
    for scale, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * scale:  # which three digits round up
            return f"{value / scale:.3g}{suffix}"
    return f"{value:.4g}"


def counted(number: int, noun: str) -> str:
    """A number with its noun, in the plural unless it is 1: "1 step", "2,048 rows"."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def duration(seconds: float) -> str:
    """Seconds in the form 42s, 3m20s or 5h07m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


class ProgressBar:
    """A progress count, shown as a bar on a terminal and as occasional lines elsewhere."""

    def __init__(
        self,
        description: str,
        total: float | None,
        unit: str,
        *,
        bar: rich.progress.Progress | None,
        quiet: bool,
    ):
        self.description, self.total, self.unit = description, total, unit
        self._bar, self._quiet = bar, quiet
        self._task = None if bar is None else bar.add_task(description, total=total, status="")
        self._samples: deque[tuple[float, float]] = deque(maxlen=RATE_WINDOW)
        self._began = self._printed_at = time.monotonic()
        self._status = ""

    def update(self, completed: float, **fields: str) -> None:
        """Set the absolute progress and any `name=value` to show with it."""
        now = time.monotonic()
        self._samples.append((now, completed))
        self._status = self._describe(completed, fields)
        if self._bar is not None:
            assert self._task is not None
            self._bar.update(self._task, completed=completed, status=self._status)
        elif not self._quiet and now - self._printed_at >= PLAIN_INTERVAL_S:
            say(f"{self.description}: {self._status}")
            self._printed_at = now

    def finish(self) -> None:
        """Print the total time if any progress line was printed."""
        if self._printed_at > self._began:
            say(f"{self.description}: {self._status}, took {duration(time.monotonic() - self._began)}")

    def _describe(self, completed: float, fields: dict[str, str]) -> str:
        (began, first), (now, _) = self._samples[0], self._samples[-1]
        rate = (completed - first) / (now - began) if now > began else 0.0
        of = "" if self.total is None else f"/{amount(self.total)}"
        parts = [f"{amount(completed)}{of} {self.unit}"]
        if rate > 0:
            parts.append(f"{amount(rate)} {self.unit}/s")
            if self.total is not None:
                parts.append(f"{duration(max(self.total - completed, 0) / rate)} left")
        return ", ".join(parts + [f"{name} {value}" for name, value in fields.items()])


@contextmanager
def progress(
    description: str, total: float | None, unit: str = "it", *, enabled: bool = True
) -> Iterator[ProgressBar]:
    """Show progress; `total` is None if unknown.

    On a terminal: a bar with rate and time left. Elsewhere: a plain line every ten seconds, which keeps logs
    readable. Silent unless `enabled`.
    """
    if not enabled or not console().is_terminal:
        plain = ProgressBar(description, total, unit, bar=None, quiet=not enabled)
        yield plain
        plain.finish()
        return
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("{task.fields[status]}", markup=False),
    )
    with Bar(*columns, console=console()) as bar:
        yield ProgressBar(description, total, unit, bar=bar, quiet=False)
