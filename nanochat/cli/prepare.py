"""The stage `data prepare`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from nanochat.cli.data import PackConfig, pack_job
from nanochat.console import amount, counted, duration, say, table
from nanochat.paths import Paths
from nanochat.prepare.daft_engine import Daft, DaftRunner
from nanochat.prepare.preparation import PrepareRecord, PrepareSettings, prepare
from nanochat.prepare.quality import RULES

_NEAR = "near-duplicates"


@dataclass(frozen=True)
class PrepareConfig(PackConfig):
    """Filter your own text, drop exact and near duplicates, and pack it into shuffled shards."""

    skip: tuple[str, ...] = ()
    """rules to leave out (words, placeholder, word-length, symbols, bullets, ellipses, repeated-lines,
    repeated-characters, alphabetic), or near-duplicates"""
    runner: DaftRunner | None = None
    """native: this process; ray: the cluster at RAY_ADDRESS, else one on this machine; default: DAFT_RUNNER, else
    native"""


@dataclass(frozen=True)
class PrepareResult:
    """The folder of the shards, and what became of the documents."""

    out: Path
    record: PrepareRecord
    runner: str
    seconds: float


def run_prepare(config: PrepareConfig, paths: Paths) -> PrepareResult:
    """Prepare text. Raises ValueError for impossible sources or settings, EnvironmentFault without Daft."""
    if unknown := sorted({*config.skip} - {*RULES, _NEAR}):
        raise ValueError(f"--skip {' '.join(unknown)}: no such rule; there are {', '.join([*RULES, _NEAR])}")
    files, pack_settings = pack_job(config)
    rules = tuple(rule for rule in RULES if rule not in config.skip)
    settings = PrepareSettings(rules, _NEAR not in config.skip, pack_settings)
    engine = Daft(config.runner)
    began = time.monotonic()
    record = prepare(files, config.out, settings, engine)
    seconds = time.monotonic() - began
    _show(record)
    say(
        f"{counted(len(record.shards) - 1, 'training shard')} and 1 for validation in {config.out}: "
        f"{amount(record.read_bytes)}B read, {amount(record.kept_bytes)}B kept, in {duration(seconds)} "
        f"({record.engine}, runner {engine.runner})"
    )
    return PrepareResult(config.out, record, engine.runner, seconds)


def _show(record: PrepareRecord) -> None:
    total = max(record.read.documents, 1)
    counts = {"read": record.read.documents}
    counts |= {f"failed {rule}": count for rule, count in record.failed.items()}
    counts |= {"exact duplicates": record.exact, "near duplicates": record.near, "kept": record.kept}
    rows = [(name, f"{count:,}", f"{count / total:.1%}") for name, count in counts.items()]
    table("documents", ("", "documents", "share"), rows)
