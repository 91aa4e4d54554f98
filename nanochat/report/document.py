"""What the report says: findings turned into sections of tables, plots and samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from statistics import fmean, median
from typing import Any

from nanochat.config import json_line
from nanochat.console import amount, duration
from nanochat.report import figures
from nanochat.report.artefacts import Findings, Row, StageRows
from nanochat.report.blocks import Block, Image, Sample, Section, Table
from nanochat.report.figures import Curve, Panel

SAMPLES_SHOWN = 12  # of each stage, the newest
TITLES = {"pretrain": "Pretraining", "sft": "Supervised fine-tuning", "rl": "Reinforcement learning"}


def compose(findings: Findings, dollars_per_hour: float | None = None) -> list[Section]:
    """The sections that the findings allow, in reading order; one without content is left out."""
    named: tuple[tuple[str, Callable[[Findings], Iterable[Block]]], ...] = (
        ("Tasks", _tasks),
        ("What it says", _samples),
        ("Time", _time),
        ("Machine", _machine),
    )
    sections = [
        Section("Summary", tuple(_summary(findings, dollars_per_hour))),
        Section("Tokenizer", tuple(_tokenizer(findings))),
        *(Section(TITLES[stage.stage], tuple(_training(stage))) for stage in findings.training()),
        *(Section(title, tuple(make(findings))) for title, make in named),
    ]
    return [section for section in sections if section.blocks]


# --- summary ---


def _summary(findings: Findings, dollars_per_hour: float | None) -> Iterable[Block]:
    wall_s = sum(timing.wall_s for timing in findings.timings)
    peaks = [row["peak_rss_bytes"] for row in _every(findings, "done") if row.get("peak_rss_bytes")]
    told = {
        "parameters": _parameters(findings),
        "trained on": _trained_on(findings),
        "validation": _validation(findings),
        "tasks answered right": _task_means(findings),
        "speed of training": _speed(findings),
        "time, all stages": duration(wall_s) if wall_s else None,
        "cost": f"${wall_s / 3600 * dollars_per_hour:.2f}" if dollars_per_hour else None,
        "peak memory": f"{max(peaks) / 2**30:.2f} GiB" if peaks else None,
    }
    yield Table(("", ""), tuple((name, value) for name, value in told.items() if value))
    missing = [name for name, present in _expected(findings).items() if not present]
    if missing:
        yield f"Not done yet: {', '.join(missing)}."


def _expected(findings: Findings) -> dict[str, bool]:
    """The stages of a whole pipeline, and whether anything is known of each."""
    known = {(stage.run, stage.stage) for stage in findings.stages}
    trained = {stage.stage: stage.run for stage in findings.training()}
    return {
        "tokenizer train": any(run == "tokenizer" for run, _ in known),
        "pretrain": "pretrain" in trained,
        "eval base": (trained.get("pretrain"), "eval-base") in known,
        "sft": "sft" in trained,
        "eval chat": (trained.get("sft"), "eval-chat") in known,
    }


def _parameters(findings: Findings) -> str | None:
    counts: dict[str, int] = _newest(findings, "parameters")
    groups = ", ".join(f"{name} {amount(count)}" for name, count in counts.items() if count)
    return f"{amount(sum(counts.values()))} ({groups})" if counts else None


def _trained_on(findings: Findings) -> str | None:
    ends = [(stage.stage, stage.of("train")[-1]) for stage in findings.training()]
    told = (f"{amount(end['tokens'])} tokens in {end['step']:,} steps ({name})" for name, end in ends)
    return ", then ".join(told) or None


def _validation(findings: Findings) -> str | None:
    values = [value for stage in findings.stages for value in stage.series("eval", "val_bpb")[1]]
    return f"{values[-1]:.4f} bits per byte" if values else None


def _task_means(findings: Findings) -> str | None:
    scores = _scores(findings)
    shared = set.intersection(*map(set, scores.values())) if scores else set()
    means = (f"{fmean(own[task]['score'] for task in shared):.1%} ({run})" for run, own in scores.items())
    return f"{' → '.join(means)}, mean of {len(shared)} tasks" if shared else None


def _speed(findings: Findings) -> str | None:
    told = []
    for stage in findings.training():
        tok_per_s, mfu = stage.series("train", "tok_per_s")[1], stage.series("train", "mfu")[1]
        if tok_per_s:
            share = f", {median(mfu):.1%} of peak FLOPs" if mfu else ""
            told.append(f"{amount(median(tok_per_s))} tokens/s ({stage.stage}{share})")
    return ", ".join(told) or None


# --- tokenizer ---


def _tokenizer(findings: Findings) -> Iterable[Block]:
    for row in _every(findings, "tokenizer")[-1:]:
        read = f"{amount(row['characters'])} characters in {row['documents']:,} documents"
        rows = (
            ("vocabulary", f"{row['vocab_size']:,}"),
            ("learnt from", read),
            ("bytes per token", f"{row['bytes_per_token']:.2f} on validation text"),
        )
        yield Table(("", ""), rows)
    for row in _every(findings, "compression")[-1:]:
        names = [f"{one['name']} ({one['vocab_size']:,})" for one in row["tokenizers"]]
        rates = [one["bytes_per_token"] for one in row["tokenizers"]]
        domains = tuple((domain, *(f"{rate[domain]:.2f}" for rate in rates)) for domain in row["bytes"])
        yield Table(("text", *names), domains, "Bytes per token, more is better")


# --- one training stage ---


def _training(stage: StageRows) -> Iterable[Block]:
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
        if config.get("plan"):
            yield Table(("decided by the plan", "value"), _flat(config["plan"]), "Plan", folded=True)


def _curves(stage: StageRows, kind: str, names: dict[str, str], smooth: bool = False) -> tuple[Curve, ...]:
    drawn = (Curve(label, *stage.series(kind, name), smooth) for name, label in names.items())
    return tuple(curve for curve in drawn if curve.steps)


def _packing(row: Row) -> Table:
    counts = {name: row.get(name) or 0 for name in ("used", "cropped", "padded")}
    total = sum(counts.values()) or 1
    rows = [(name, f"{count:,}", f"{count / total:.2%}") for name, count in counts.items()]
    rows.append(("epochs", f"{row.get('epochs') or 0:.2f}", ""))
    return Table(("tokens", "count", "share"), tuple(rows), "How the text filled the rows")


# --- evaluation ---


def _scores(findings: Findings) -> dict[str, dict[str, Row]]:
    """For each run, in the order in which they were made, its newest score on every task."""
    scores: dict[str, dict[str, Row]] = {}
    for stage in findings.stages:
        for row in sorted(stage.of("tasks"), key=lambda row: row.get("time", 0.0)):
            for task, score in row["scores"].items():
                count, chance = (
                    (row.get("counts") or {}).get(task),
                    (row.get("baselines") or {}).get(task, 0.0),
                )
                scores.setdefault(stage.run, {})[task] = {"score": score, "count": count, "chance": chance}
    return scores


def _tasks(findings: Findings) -> Iterable[Block]:
    scores = _scores(findings)
    names = list(dict.fromkeys(task for own in scores.values() for task in own))
    if not names:
        return
    facts = {task: next(own[task] for own in scores.values() if task in own) for task in names}
    groups = {
        run: [own[task]["score"] if task in own else None for task in names] for run, own in scores.items()
    }
    chances = [facts[task]["chance"] for task in names]
    yield Image(figures.bars("tasks", names, groups, chances), "share of right answers for each task and run")
    yield Table(
        ("task", "items", "guessing", *scores),
        tuple(
            (
                task,
                str(facts[task]["count"] or ""),
                f"{facts[task]['chance']:.0%}",
                *(f"{own[task]['score']:.1%}" if task in own else "" for own in scores.values()),
            )
            for task in names
        ),
    )


def _samples(findings: Findings) -> Iterable[Block]:
    for stage in findings.stages:
        newest = {row["prompt"]: row["text"] for row in stage.of("sample")}
        if newest:
            yield f"{stage.run}, after {stage.of('sample')[-1].get('step') or 0:,} steps:"
            yield from [Sample(prompt, text) for prompt, text in newest.items()][-SAMPLES_SHOWN:]


# --- time and machine ---


def _time(findings: Findings) -> Iterable[Block]:
    total = sum(timing.wall_s for timing in findings.timings)
    if not total:
        return
    rows = [
        (timing.name, duration(timing.wall_s), f"{timing.wall_s / total:.0%}", str(timing.attempts))
        for timing in findings.timings
    ]
    yield Table(("stage", "time", "share", "attempts"), (*rows, ("all", duration(total), "", "")))


def _machine(findings: Findings) -> Iterable[Block]:
    hardware = _newest(findings, "hardware") or findings.system.get("hardware") or {}
    software = _newest(findings, "software") or findings.system.get("software") or {}
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


def _every(findings: Findings, kind: str) -> list[Row]:
    return [row for stage in findings.stages for row in stage.of(kind)]


def _newest(findings: Findings, name: str) -> dict[str, Any]:
    """The newest table of this name among the configurations that the stages wrote down."""
    return next((row[name] for row in reversed(_every(findings, "config")) if row.get(name)), {})


def _flat(table: dict[str, Any], prefix: str = "") -> tuple[tuple[str, str], ...]:
    """A nested table as (dotted name, value) rows."""
    rows: list[tuple[str, str]] = []
    for name, value in table.items():
        if isinstance(value, dict):
            rows.extend(_flat(value, f"{prefix}{name}."))
        else:
            rows.append((prefix + name, value if isinstance(value, str) else json_line(value)))
    return tuple(rows)
