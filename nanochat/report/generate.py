"""`nanochat report reset` and `nanochat report generate`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from nanochat.atomic import write_atomic, write_text_atomic
from nanochat.bounds import require_not_negative
from nanochat.config import json_line
from nanochat.console import say, warn
from nanochat.paths import Paths
from nanochat.report.archive import move_to_archive


@dataclass(frozen=True)
class ResetConfig:
    """Start a new report, without anything recorded until now."""


@dataclass(frozen=True)
class ResetResult:
    """Where an earlier report was moved, if there was one."""

    archived: Path | None


def run_reset(config: ResetConfig, paths: Paths) -> ResetResult:
    """Move an earlier report into the archive and record this machine.

    The runs are not changed; `report generate` will only use what they record from now on.
    """
    from nanochat import hardware
    from nanochat.report.artefacts import System

    earlier = {"report": paths.report} if (paths.report / "report.md").exists() else {}
    archived = move_to_archive(paths, "report", earlier)
    if archived is not None:
        say(f"the earlier report is in {archived}")
    system = System(time.time(), hardware.describe(), hardware.software())
    write_text_atomic(paths.report / "system.json", json_line(system) + "\n")
    say(f"a new report starts in {paths.report}")
    return ResetResult(archived)


def _write(content: bytes, file: BinaryIO) -> None:
    file.write(content)


@dataclass(frozen=True)
class GenerateConfig:
    """Write the report of all runs."""

    dollars_per_hour: float | None = None
    """Price of the whole machine, to compute the cost."""

    def __post_init__(self) -> None:
        require_not_negative(self, "dollars_per_hour")


@dataclass(frozen=True)
class GenerateResult:
    """Both forms of the report, and its headings."""

    markdown: Path
    html: Path
    sections: tuple[str, ...]


def run_generate(config: GenerateConfig, paths: Paths) -> GenerateResult:
    """Write `report/report.md`, `report/report.html` and `report/plots/`; the same artefacts give the same bytes.

    Malformed data is left out, and the report says so. Raises ValueError if no stage has recorded anything yet.
    """
    from nanochat.report.artefacts import collect

    findings = collect(paths)
    for what in findings.left_out:
        warn(f"left out of the report: {what}")
    if not findings.stages and not findings.left_out:
        raise ValueError(
            f"nothing to report: no stage has run in {paths.base}"
            + (" since the last `nanochat report reset`" if findings.system else "")
            + " (nanochat run quickstart runs a whole pipeline)"
        )
    from nanochat.report.blocks import Image
    from nanochat.report.document import compose
    from nanochat.report.render import html, markdown

    sections = compose(findings, config.dollars_per_hour)
    for plot in (block.plot for section in sections for block in section.blocks if isinstance(block, Image)):
        write_atomic(paths.report / "plots" / f"{plot.name}.png", partial(_write, plot.png))
    result = GenerateResult(
        paths.report / "report.md", paths.report / "report.html", tuple(section.title for section in sections)
    )
    write_text_atomic(result.markdown, markdown(sections))
    write_text_atomic(result.html, html(sections))
    say(f"report: {result.html} (and {result.markdown.name} beside it)")
    return result
