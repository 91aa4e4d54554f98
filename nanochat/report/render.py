"""Sections as markdown and as one self-contained html page. Text from artefacts is escaped in both."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from nanochat.report.blocks import Image, SampleBlock, Section, Table

BLOCKS = {"table": Table, "image": Image, "sample": SampleBlock}

# Starts of markup within a line: entities and tags, emphasis, code, cells, links and images.
_MARKUP = re.compile(r"[\\`*|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|(?<=\])\(|\[(?=\^)")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_BLOCK_START = re.compile(r"^(\d*)([#+.)=-])")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x9f]")


class _Markdown(str):
    """Text that is markdown already."""


def markdown(sections: Sequence[Section]) -> str:
    """The report for a terminal or a repository, with plots in `plots/NAME.png`."""
    environment = _environment(finalize=_inline)
    environment.filters["paragraph"] = _paragraph
    environment.filters["quoted"] = _quoted
    return environment.get_template("report.md.j2").render(sections=sections)


def html(sections: Sequence[Section]) -> str:
    """The report as one page, including plots and style, for light and dark screens."""
    return _environment(autoescape=True).get_template("report.html.j2").render(sections=sections)


def _environment(**options: Any) -> Environment:
    environment = Environment(
        loader=PackageLoader("nanochat.report"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )
    tests: dict[str, Any] = {name: partial(_is, kind) for name, kind in BLOCKS.items()}
    environment.tests.update(tests)
    return environment


def _is(kind: type, block: object) -> bool:
    return isinstance(block, kind)


def _inline(value: Any) -> str:
    """A value as escaped markdown on one line, which also fits a table cell."""
    if isinstance(value, _Markdown):
        return value
    line = " ".join(_visible(str(value)).split())
    return _MARKUP.sub(r"\\\g<0>", line).translate(_ENTITIES)


def _paragraph(text: str) -> _Markdown:
    """`_inline` text at the start of a paragraph: escapes headings, lists and rules too."""
    return _Markdown(_BLOCK_START.sub(r"\1\\\2", _inline(text)))


def _quoted(text: str) -> _Markdown:
    """Any text as an indented block, which markdown shows verbatim."""
    return _Markdown("\n".join(f"    {line}" for line in _visible(text).splitlines() or [""]))


def _visible(text: str) -> str:
    """Text without control characters, which a terminal would interpret."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
