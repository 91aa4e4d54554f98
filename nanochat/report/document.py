"""What the report says: findings turned into sections of tables, plots and samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from nanochat.config import json_line
from nanochat.console import amount, duration
from nanochat.report import figures
from nanochat.report.artefacts import Findings, MetricsRow, StageRows
from nanochat.report.blocks import Image, ReportBlock, SampleText, Section, Table
from nanochat.report.figures import Curve, Panel
from nanochat.report.summary import summarise

SAMPLES_SHOWN = 12  # of each run, the newest
TITLES = {"pretrain": "Pretraining", "sft": "Supervised fine-tuning", "rl": "Reinforcement learning"}


def compose(findings: Findings, dollars_per_hour: float | None = None) -> list[Section]:
    """The sections that the findings allow, in reading order; one without content is left out."""
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
    for row in findings.every("tokenizer")[-1:]:
        read = f"{amount(row['characters'])} characters in {row['documents']:,} documents"
        rows = (
            ("vocabulary", f"{row['vocab_size']:,}"),
            ("learnt from", read),
            ("bytes per token", f"{row['bytes_per_token']:.2f} on validation text"),
        )
        yield Table(("", ""), rows)
    for row in findings.every("compression")[-1:]:
        names = [f"{one['name']} ({one['vocab_size']:,})" for one in row["tokenizers"]]
        rates = [one["bytes_per_token"] for one in row["tokenizers"]]
        domains = tuple((domain, *(f"{rate[domain]:.2f}" for rate in rates)) for domain in row["bytes"])
        yield Table(("text", *names), domains, "Bytes per token, more is better")


# --- one training stage ---


def _training(stage: StageRows) -> Iterable[ReportBlock]:
    losses = _curves(stage, "train", {"loss": "training"}, smooth=True)
    panels = [
        Panel("loss (nats per token)", losses + _curves(stage, "eval", {"val_loss": "validation"})),
        Panel("bits per byte", _curves(stage, "eval", {"val_bpb": "validation", "train_bpb": "training"})),
        Panel("learning rate (share of its peak)", _curves(stage, "train", {"lr": "lr"}), from_zero=True),
        Panel(
            "tokens per second", _curves(stage, "train", {"tok_per_s": "tok/s"}, smooth=True), from_zero=True
        ),
    ]
    drawn = [panel for panel in panels if panel.curves]
    alt = f"{TITLES[stage.stage]}: {', '.join(panel.title for panel in drawn)} over the steps"
    yield Image(figures.curves(f"{stage.run}-{stage.stage}", drawn), alt)
    packing = stage.last("packing")
    if packing:
        yield _packing(packing)
    config = stage.last("config")
    if config:
        yield Table(("setting", "value"), _flat(config.get("config") or {}), "Settings", folded=True)
        if stage.stage == "pretrain" and config.get("plan"):  # later stages carry their base model's
            yield Table(("decided by the plan", "value"), _flat(config["plan"]), "Plan", folded=True)


def _curves(stage: StageRows, kind: str, names: dict[str, str], smooth: bool = False) -> tuple[Curve, ...]:
    drawn = (Curve(label, *stage.series(kind, name), smooth) for name, label in names.items())
    return tuple(curve for curve in drawn if curve.steps)


def _packing(row: MetricsRow) -> Table:
    counts = {name: row.get(name) or 0 for name in ("used", "cropped", "padded")}
    total = sum(counts.values()) or 1
    rows = [(name, f"{count:,}", f"{count / total:.2%}") for name, count in counts.items()]
    rows.append(("epochs", f"{row.get('epochs') or 0:.2f}", ""))
    return Table(("tokens", "count", "share"), tuple(rows), "How the text filled the rows")


# --- evaluation ---


def _tasks(findings: Findings) -> Iterable[ReportBlock]:
    scores = findings.scores()
    names, facts = _known_tasks(scores)
    if not names:
        return
    groups = {
        run: [own[task]["score"] if task in own else None for task in names] for run, own in scores.items()
    }
    chances = [facts[task]["chance"] for task in names]
    yield Image(figures.bars("tasks", names, groups, chances), "share of right answers for each task and run")
    yield _score_table(scores)


def _core(findings: Findings) -> Iterable[ReportBlock]:
    scores = findings.scores(core=True)
    if scores:
        yield _score_table(scores)


def _known_tasks(scores: dict[str, dict[str, MetricsRow]]) -> tuple[list[str], dict[str, MetricsRow]]:
    """Every task that some run has answered, and what does not depend on the run."""
    facts = {task: row for own in scores.values() for task, row in own.items()}
    return list(facts), facts


def _score_table(scores: dict[str, dict[str, MetricsRow]]) -> Table:
    names, facts = _known_tasks(scores)
    rows = (
        (
            task,
            " / ".join(dict.fromkeys(str(own[task]["count"]) for own in scores.values() if task in own)),
            f"{facts[task]['chance']:.0%}",
            *(f"{own[task]['score']:.1%}" if task in own else "" for own in scores.values()),
        )
        for task in names
    )
    return Table(("task", "items", "guessing", *scores), tuple(rows))


def _samples(findings: Findings) -> Iterable[ReportBlock]:
    newest: dict[str, dict[str, MetricsRow]] = {}
    for stage in findings.stages:
        newest.setdefault(stage.run, {}).update({row["prompt"]: row for row in stage.of("sample")})
    for run, samples in newest.items():
        for row in list(samples.values())[-SAMPLES_SHOWN:]:
            yield SampleText(f"{run}, step {row.get('step') or 0:,}", row["prompt"], row["text"])


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
    hardware = findings.newest("hardware") or findings.system.get("hardware") or {}
    software = findings.newest("software") or findings.system.get("software") or {}
    rows = (*_hardware(hardware), *_flat({name: value for name, value in software.items() if value}))
    if rows:
        yield Table(("", ""), rows)


def _hardware(known: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """What `nanochat.hardware.describe` found, for people."""
    names = [f"{gpu['name']} ({gpu['memory'] / 2**30:.0f} GiB)" for gpu in known.get("accelerators") or ()]
    for name, count in Counter(names).items():
        yield "accelerators", f"{count} × {name}"
    if "cpu" in known:
        cpu = known["cpu"]
        yield "processor", f"{cpu['model']}, {cpu['usable']:g} of {cpu['threads']} threads usable"
    if "memory" in known:
        yield "memory", f"{known['memory']['total'] / 2**30:.1f} GiB"


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
