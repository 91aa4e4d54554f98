"""Turns findings into the report's sections of tables, plots and samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from nanochat.config import json_line
from nanochat.console import amount, duration
from nanochat.hardware import Hardware
from nanochat.metrics_rows import (
    CompressionRow,
    ConfigRow,
    EvalRow,
    PackingRow,
    RolloutRow,
    SampleRow,
    TokenizerRow,
    TrainRow,
)
from nanochat.report import figures
from nanochat.report.artefacts import Findings, StageRows, TaskScore
from nanochat.report.blocks import Image, ReportBlock, SampleBlock, Section, Table
from nanochat.report.curves import curve
from nanochat.report.figures import Panel
from nanochat.report.reinforcement import reinforcement_panels, reinforcement_tables
from nanochat.report.summary import summarise

SAMPLES_SHOWN = 12  # the newest of each run
TASKS_DRAWN, RUNS_DRAWN = 60, 8  # in the plot, the newest runs; the table has all of them
TITLES = {
    "pretrain": "Pretraining",
    "sft": "Supervised fine-tuning",
    "rl": "Reinforcement learning",
    "dpo": "Preference tuning",
}


def compose(findings: Findings, dollars_per_hour: float | None = None) -> list[Section]:
    """The sections in reading order, without empty ones."""
    named: tuple[tuple[str, Callable[[Findings], Iterable[ReportBlock]]], ...] = (
        ("CORE", _core),
        ("Tasks", _tasks),
        ("What it says", _samples),
        ("Time", _time),
        ("Machine", _machine),
    )
    sections = [
        Section("Summary", tuple(summarise(findings, dollars_per_hour))),
        Section("Tokenizer", tuple(_tokenizer(findings))),
        *(Section(TITLES[stage.stage], tuple(_training(stage))) for stage in findings.training()),
        *(Section(title, tuple(make(findings))) for title, make in named),
    ]
    return [section for section in sections if section.blocks]


# --- tokenizer ---


def _tokenizer(findings: Findings) -> Iterable[ReportBlock]:
    for trained in findings.every(TokenizerRow)[-1:]:
        rows = (
            ("vocabulary", f"{trained.vocab_size:,}"),
            ("learnt from", f"{amount(trained.characters)} characters in {trained.documents:,} documents"),
            ("bytes per token", f"{trained.bytes_per_token:.2f} on validation text"),
        )
        yield Table(("", ""), rows)
    for compared in findings.every(CompressionRow)[-1:]:
        names = [f"{one.name} ({one.vocab_size:,})" for one in compared.tokenizers]
        rates = [one.bytes_per_token for one in compared.tokenizers]
        domains = tuple(
            (domain, *(f"{rate[domain]:.2f}" if domain in rate else "" for rate in rates))
            for domain in compared.bytes
        )
        yield Table(("text", *names), domains, "Bytes per token, more is better")


# --- one training stage ---


def _training(stage: StageRows) -> Iterable[ReportBlock]:
    loss = curve(stage, TrainRow, "training", lambda row: row.loss, smooth=True)
    val_loss = curve(stage, EvalRow, "validation", lambda row: row.val_loss)
    val_bpb = curve(stage, EvalRow, "validation", lambda row: row.val_bpb)
    train_bpb = curve(stage, EvalRow, "training", lambda row: row.train_bpb)
    lr = curve(stage, TrainRow, "lr", lambda row: row.lr)
    tok_per_s = curve(stage, TrainRow, "tok/s", lambda row: row.tok_per_s, smooth=True)
    sampled = stage.last(RolloutRow) is not None
    panels = [
        *reinforcement_panels(stage),
        Panel("loss" if sampled else "loss (nats per token)", loss + val_loss),
        Panel("bits per byte", val_bpb + train_bpb),
        Panel("learning rate (share of its peak)", lr, from_zero=True),
        Panel("tokens per second", tok_per_s, from_zero=True),
    ]
    drawn = [panel for panel in panels if panel.curves]
    alt = f"{TITLES[stage.stage]}: {', '.join(panel.title for panel in drawn)} over the steps"
    yield Image(figures.curves(f"{stage.run}-{stage.stage}", drawn), alt)
    yield from reinforcement_tables(stage)
    packing = stage.last(PackingRow)
    if packing:
        yield _packing(packing)
    config = stage.last(ConfigRow)
    if config:
        yield Table(("setting", "value"), _flat(config.config), "Settings", folded=True)
        if config.plan:
            yield Table(("decided by the plan", "value"), _flat(config.plan), "Plan", folded=True)


def _packing(row: PackingRow) -> Table:
    counts = {"used": row.used, "cropped": row.cropped, "padded": row.padded}
    total = sum(counts.values()) or 1
    rows = [(name, f"{count:,}", f"{count / total:.2%}") for name, count in counts.items()]
    rows.append(("epochs", f"{row.epochs:.2f}", ""))
    return Table(("tokens", "count", "share"), tuple(rows), "How the rows were filled")


# --- evaluation ---


def _tasks(findings: Findings) -> Iterable[ReportBlock]:
    scores = findings.scores()
    facts = _known_tasks(scores)
    if not facts:
        return
    names, runs = list(facts)[:TASKS_DRAWN], list(scores)[-RUNS_DRAWN:]
    groups = {
        run: [scores[run][task].score if task in scores[run] else None for task in names] for run in runs
    }
    intervals = {
        run: [scores[run][task].interval if task in scores[run] else None for task in names] for run in runs
    }
    chances = [facts[task].chance for task in names]
    yield Image(figures.bars("tasks", names, groups, chances, intervals), "accuracy by task and run")
    yield _score_table(scores)


def _core(findings: Findings) -> Iterable[ReportBlock]:
    scores = findings.scores(core=True)
    if scores:
        yield _score_table(scores)


def _known_tasks(scores: dict[str, dict[str, TaskScore]]) -> dict[str, TaskScore]:
    """Every task that some run was scored on, with the newest run's score."""
    return {task: score for own in scores.values() for task, score in own.items()}


def _score_table(scores: dict[str, dict[str, TaskScore]]) -> Table:
    rows = (
        (
            task,
            " / ".join(dict.fromkeys(_count(own[task]) for own in scores.values() if task in own)),
            f"{newest.chance:.0%}",
            *(_accuracy(own[task]) if task in own else "" for own in scores.values()),
        )
        for task, newest in _known_tasks(scores).items()
    )
    known = any(score.interval for own in scores.values() for score in own.values())
    title = "Accuracies with their 95 % intervals over items" if known else ""
    return Table(("task", "items", "guessing", *scores), tuple(rows), title)


def _accuracy(score: TaskScore) -> str:
    if score.interval is None:
        return f"{score.score:.1%}"
    low, high = (100 * end for end in score.interval)
    return f"{score.score:.1%} ({low:.1f}–{high:.1f})"


def _count(score: TaskScore) -> str:
    return "unknown" if score.count is None else str(score.count)


def _samples(findings: Findings) -> Iterable[ReportBlock]:
    newest: dict[str, dict[str, SampleRow]] = {}
    for stage in findings.stages:
        newest.setdefault(stage.run, {}).update({row.prompt: row for row in stage.of(SampleRow)})
    for run, samples in newest.items():
        for row in list(samples.values())[-SAMPLES_SHOWN:]:
            yield SampleBlock(f"{run}, step {row.step:,}", row.prompt, row.text)


# --- time and machine ---


def _time(findings: Findings) -> Iterable[ReportBlock]:
    total = sum(timing.wall_s for timing in findings.timings)
    if not total:
        return
    rows = [
        (timing.name, duration(timing.wall_s), f"{timing.wall_s / total:.0%}", str(timing.attempts))
        for timing in findings.timings
    ]
    yield Table(("stage", "time", "share", "attempts"), (*rows, ("all", duration(total), "", "")))


def _machine(findings: Findings) -> Iterable[ReportBlock]:
    system = findings.system
    hardware = findings.newest(lambda row: row.hardware) or (system and system.hardware)
    software = findings.newest(lambda row: row.software) or (system and system.software) or {}
    machine = _hardware(hardware) if hardware else ()
    rows = (*machine, *((name, version) for name, version in software.items() if version))
    if rows:
        yield Table(("", ""), rows)


def _hardware(known: Hardware) -> Iterable[tuple[str, str]]:
    names = Counter(f"{gpu.name} ({gpu.memory / 2**30:.0f} GiB)" for gpu in known.accelerators)
    for name, count in names.items():
        yield "accelerators", f"{count} × {name}"
    yield "processor", f"{known.cpu.model}, {known.cpu.usable:g} of {known.cpu.threads} threads usable"
    yield "memory", f"{known.memory.total / 2**30:.1f} GiB"


# --- helpers ---


def _flat(table: dict[str, Any], prefix: str = "") -> tuple[tuple[str, str], ...]:
    """A nested table as (dotted name, value) rows."""
    rows: list[tuple[str, str]] = []
    for name, value in table.items():
        if isinstance(value, dict):
            rows.extend(_flat(value, f"{prefix}{name}."))
        else:
            rows.append((prefix + name, value if isinstance(value, str) else json_line(value)))
    return tuple(rows)
