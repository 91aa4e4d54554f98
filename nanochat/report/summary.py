"""The first section of the report: the pipeline in a dozen lines, and which stages are missing."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean, median

from nanochat.console import amount, duration
from nanochat.metrics_rows import DoneRow, EvalRow, TasksRow, TrainRow
from nanochat.report.artefacts import Findings
from nanochat.report.blocks import ReportBlock, Table


def summarise(findings: Findings, dollars_per_hour: float | None) -> Iterable[ReportBlock]:
    """A line per known fact, then what is missing and what was malformed."""
    wall_s = sum(timing.wall_s for timing in findings.timings)
    peaks = [row.peak_rss_bytes for row in findings.every(DoneRow) if row.peak_rss_bytes]
    told = {
        "model": _model(findings),
        "parameters": _parameters(findings),
        "trained on": _trained_on(findings),
        "validation": _validation(findings),
        "CORE": _core_score(findings),
        "tasks answered right": _task_means(findings),
        "ChatCORE": _chatcore(findings),
        "speed of training": _speed(findings),
        "time, all stages": duration(wall_s) if wall_s else None,
        "cost": f"${wall_s / 3600 * dollars_per_hour:.2f}" if dollars_per_hour else None,
        "peak memory": f"{max(peaks) / 2**30:.2f} GiB" if peaks else None,
    }
    yield Table(("", ""), tuple((name, value) for name, value in told.items() if value))
    missing = [name for name, present in _expected(findings).items() if not present]
    if missing:
        yield f"Not done yet: {', '.join(missing)}."
    if findings.left_out:
        yield f"Left out as malformed: {'; '.join(findings.left_out)}."


def _expected(findings: Findings) -> dict[str, bool]:
    """The stages of a whole pipeline, and whether each has results."""
    known = {(stage.run, stage.stage) for stage in findings.stages}
    trained = {stage.stage: stage.run for stage in findings.training()}
    return {
        "tokenizer train": any(run == "tokenizer" for run, _ in known),
        "pretrain": "pretrain" in trained,
        "eval base": (trained.get("pretrain"), "eval-base") in known,
        "sft": "sft" in trained,
        "eval chat": (trained.get("sft"), "eval-chat") in known,
    }


def _model(findings: Findings) -> str | None:
    shape = findings.planned.model
    if shape is None:
        return None
    return (
        f"{shape.n_layer} layers, width {shape.n_embd}, {shape.n_head} heads of {shape.head_dim}, "
        f"context {shape.max_seq_len:,}, vocabulary {shape.vocab_size:,}"
    )


def _parameters(findings: Findings) -> str | None:
    counts = findings.planned.parameters or {}
    groups = ", ".join(f"{name} {amount(count)}" for name, count in counts.items() if count)
    return f"{amount(sum(counts.values()))} ({groups})" if counts else None


def _trained_on(findings: Findings) -> str | None:
    ends = [(stage.stage, stage.of(TrainRow)[-1]) for stage in findings.training()]
    told = (f"{amount(end.tokens)} tokens in {end.step:,} steps ({name})" for name, end in ends)
    return ", then ".join(told) or None


def _validation(findings: Findings) -> str | None:
    values = [
        value for stage in findings.stages for value in stage.series(EvalRow, lambda row: row.val_bpb)[1]
    ]
    return f"{values[-1]:.4f} bits per byte" if values else None


def _core_score(findings: Findings) -> str | None:
    row = findings.latest(EvalRow, lambda row: row.core)
    if row is None:
        return None
    from nanochat.eval.core import GPT2_CORE  # loads torch, so only if there is something to compare

    partial = ", from a part of its tasks" if row.core_partial else ""
    error = "" if row.core_standard_error is None else f" ± {row.core_standard_error:.4f}"
    return f"{row.core:.4f}{error}{partial} (GPT-2: {GPT2_CORE:.4f})"


def _chatcore(findings: Findings) -> str | None:
    row = findings.latest(TasksRow, lambda row: row.chatcore)
    if row is None:
        return None
    error = row.chatcore_standard_error
    return f"{row.chatcore:.4f}" + ("" if error is None else f" ± {error:.4f}")


def _task_means(findings: Findings) -> str | None:
    scores = findings.scores()
    shared = set.intersection(*map(set, scores.values())) if scores else set()
    means = (f"{fmean(own[task].score for task in shared):.1%} ({run})" for run, own in scores.items())
    return f"{' → '.join(means)}, mean of {len(shared)} tasks" if shared else None


def _speed(findings: Findings) -> str | None:
    told = []
    for stage in findings.training():
        tok_per_s = stage.series(TrainRow, lambda row: row.tok_per_s)[1]
        mfu = stage.series(TrainRow, lambda row: row.mfu)[1]
        if tok_per_s:
            share = f", {median(mfu):.1%} of peak FLOPs" if mfu else ""
            told.append(f"{amount(median(tok_per_s))} tokens/s ({stage.stage}{share})")
    return ", ".join(told) or None
