"""Sections as markdown and as one self-contained html page."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from nanochat.report.blocks import Section


def markdown(sections: Sequence[Section]) -> str:
    """The report for a terminal or a repository; its plots are `plots/NAME.png` beside it."""
    return _environment(autoescape=False).get_template("report.md.j2").render(sections=sections)


def html(sections: Sequence[Section]) -> str:
    """The report as one page with its plots and style inside, for light and dark screens."""
    return _environment(autoescape=True).get_template("report.html.j2").render(sections=sections)


def _environment(autoescape: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("nanochat.report"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.tests["kind"] = lambda block, name: type(block).__name__ == name
    environment.filters["cell"] = _cell
    environment.filters["quoted"] = _quoted
    return environment


def _cell(text: str) -> str:
    """Text that stays within its cell of a markdown table."""
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").split())


def _quoted(text: str) -> str:
    """Any text as an indented block, which markdown leaves as it is."""
    return "\n".join(f"    {line}" for line in text.splitlines() or [""])
