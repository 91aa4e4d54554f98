"""The parts of a report, free of any markup."""

from __future__ import annotations

from dataclasses import dataclass

from nanochat.report.figures import Plot


@dataclass(frozen=True)
class Table:
    """Rows of plain text; a `folded` table is collapsible in html."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Image:
    """A plot and its description in words."""

    plot: Plot
    alt: str


@dataclass(frozen=True)
class SampleBlock:
    """A model's answer to a prompt, and which model it was."""

    speaker: str
    prompt: str
    text: str


ReportBlock = Table | Image | SampleBlock | str


@dataclass(frozen=True)
class Section:
    """A heading and its contents."""

    title: str
    blocks: tuple[ReportBlock, ...]
