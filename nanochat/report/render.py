"""Sections as markdown and as one self-contained html page. Whatever the artefacts say stays text in both."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from nanochat.report.blocks import Image, SampleText, Section, Table

BLOCKS = {"table": Table, "image": Image, "sample": SampleText}

# What would begin markup in the middle of a line: entities and tags, emphasis, code, cells, links and images.
_MARKUP = re.compile(r"[\\`*|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|(?<=\])\(|\[(?=\^)")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_BLOCK_START = re.compile(r"^(\d*)([#+.)=-])")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x9f]")


def markdown(sections: Sequence[Section]) -> str:
    """The report for a terminal or a repository; its plots are `plots/NAME.png` beside it."""
    environment = _environment(autoescape=False, finalize=_inline)
    environment.filters["paragraph"] = _paragraph
    environment.filters["quoted"] = _quoted
    return environment.get_template("report.md.j2").render(sections=sections)


def html(sections: Sequence[Section]) -> str:
    """The report as one page with its plots and style inside, for light and dark screens."""
    environment = _environment(autoescape=True, finalize=_visible)
    return environment.get_template("report.html.j2").render(sections=sections)


def _environment(autoescape: bool, finalize: Callable[[Any], Any]) -> Environment:
    environment = Environment(
        loader=PackageLoader("nanochat.report"),
        autoescape=autoescape,
        finalize=finalize,  # whatever a template prints passes through it
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    for name, kind in BLOCKS.items():
        environment.tests[name] = lambda block, kind=kind: isinstance(block, kind)
    return environment


def _visible(value: Any) -> Any:
    """Text without control characters, which a terminal would obey."""
    return (
        _CONTROL.sub("\N{REPLACEMENT CHARACTER}", value)
        if isinstance(value, str) and not isinstance(value, Markup)
        else value
    )


def _inline(value: Any) -> Any:
    """Text that markdown shows as it is, on one line and within its cell of a table."""
    if isinstance(value, Markup):
        return value
    line = " ".join(_visible(str(value)).split())
    return _MARKUP.sub(r"\\\g<0>", line).translate(_ENTITIES)


def _paragraph(text: str) -> Markup:
    """`_inline` text that begins a paragraph: no heading, list or rule."""
    return Markup(_BLOCK_START.sub(r"\1\\\2", _inline(text)))


def _quoted(text: str) -> Markup:
    """Any text as an indented block, which markdown leaves as it is."""
    return Markup("\n".join(f"    {line}" for line in _visible(text).splitlines() or [""]))
