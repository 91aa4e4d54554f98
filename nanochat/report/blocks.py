"""What a report is made of, free of any markup."""

from __future__ import annotations

from dataclasses import dataclass

from nanochat.report.figures import Plot


@dataclass(frozen=True)
class Table:
    """Rows of plain text; the `folded` one opens on demand where the form allows it."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Image:
    """A plot and what it shows, in words."""

    plot: Plot
    alt: str


@dataclass(frozen=True)
class SampleBlock:
    """Who spoke, what it was given and what it said."""

    speaker: str
    prompt: str
    text: str


ReportBlock = Table | Image | SampleBlock | str


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: tuple[ReportBlock, ...]
