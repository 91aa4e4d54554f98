"""A base directory as a whole pipeline leaves it: metrics files of every stage, an interrupted run included."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nanochat import hardware
from nanochat.metrics import open_metrics
from nanochat.metrics_rows import (
    CompressionRow,
    ConfigRow,
    DomainRates,
    DoneRow,
    EvalRow,
    PackingRow,
    Row,
    SampleRow,
    TasksRow,
    TokenizerRow,
    TrainRow,
)
from nanochat.paths import Paths
from nanochat.report.generate import GenerateConfig, GenerateResult, run_generate

CONFIG: dict[str, Any] = {"depth": 4, "dataset": "builtin", "sft": {"epochs": 2}}
SIZES = {"n_layer": 4, "n_embd": 256, "n_head": 4, "head_dim": 64, "max_seq_len": 256, "vocab_size": 2048}
BEGIN = ConfigRow(
    config=CONFIG,
    plan={
        "depth": 4,
        "model": SIZES,
        "parameters": {"matrices": 3_000_000, "embedding": 500_000, "scalars": 0},
    },
    hardware=hardware.Hardware(
        hardware.Cpu("Test CPU | 3000", "TestVendor", 2, 4, 2.0, ("avx2",)),
        hardware.Memory(8 << 30, 4 << 30),
        (hardware.Accelerator("Test GPU", 80 << 30, "9.0"),) * 8,
    ),
    software={"python": "3.11.7", "torch": "2.13.0", "cuda": None, "revision": "abc123"},
)


def log_training(
    paths: Paths, run: str, stage: str, steps: int, *, begin: int = 0, end: int | None = None
) -> None:
    """What a training stage records from step `begin` (resumed there) to `end` (killed there)."""
    path = paths.metrics(run)
    with open_metrics(
        path, stage, wandb_run="dummy", config=BEGIN, enabled=True, resume=begin > 0
    ) as metrics:
        for step in range(begin + 1, (end or steps) + 1):
            metrics.log(train_row(step, steps))
            if step % (steps // 4) == 0:
                done_share = step / steps
                val_bpb, train_bpb = 1.1 + math.exp(-4 * done_share), 1 + math.exp(-5 * done_share)
                metrics.log(EvalRow(step, val_bpb=val_bpb, train_bpb=train_bpb))
        if end is not None:
            return
        metrics.log(PackingRow(used=steps * 4096, cropped=0, padded=128, epochs=1.25))
        metrics.log(DoneRow(step=steps, wall_s=steps * 0.8, peak_rss_bytes=1 << 30, compile_s=0.0))


def train_row(step: int, steps: int, **changes: Any) -> TrainRow:
    """One step of a healthy training run."""
    done_share = step / steps
    row = TrainRow(
        step=step,
        total_steps=steps,
        tokens=step * 4096,
        loss=2 + 5 * math.exp(-6 * done_share) + 0.05 * math.sin(step * 7),
        lr=0.02 * min(1, 20 * done_share, 2 * (1 - done_share)),
        grad_norm=1.0,
        tok_per_s=5000 + 100 * math.sin(step),
        mfu=None,
        elapsed_s=step * 0.8,
        skipped_steps=0,
    )
    return replace(row, **changes)


def log_rows(paths: Paths, run: str, stage: str, rows: Sequence[Row]) -> None:
    """What a stage appends to the file of a run."""
    path = paths.metrics(run)
    with open_metrics(path, stage, wandb_run="dummy", config=None, enabled=True, resume=True) as metrics:
        for row in rows:
            metrics.log(row)


@pytest.fixture
def paths(base_dir: Path) -> Paths:
    return Paths(base_dir)


@pytest.fixture
def pipeline(paths: Paths) -> Paths:
    """A base directory that a test may change."""
    return log_pipeline(paths)


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> GenerateResult:
    """The report of a pipeline, for tests that only read it."""
    paths = log_pipeline(Paths(tmp_path_factory.mktemp("base")))
    return run_generate(GenerateConfig(dollars_per_hour=24.0), paths)


def log_pipeline(paths: Paths) -> Paths:
    """Pretraining (interrupted once), both evaluations, SFT and its evaluation."""
    tokenizer = TokenizerRow("tok2048.tiktoken", "0" * 16, 2048, 12_000, 11_000_000, 2.83, 4.0, 1 << 28)
    log_rows(paths, "tokenizer", "tokenizer", [tokenizer, DoneRow(wall_s=4.0, peak_rss_bytes=1 << 28)])
    compared = tuple(DomainRates(name, 2048, {"prose": 2.8, "code": 1.9}) for name in "ab")
    compression = CompressionRow("0" * 16, {"prose": 900, "code": 700}, compared)
    log_rows(paths, "tokenizer", "tokenizer-eval", [compression])
    log_training(paths, "baserun", "pretrain", 80, end=60)
    log_training(paths, "baserun", "pretrain", 80, begin=40)
    log_rows(
        paths,
        "baserun",
        "eval-base",
        [
            EvalRow(80, val_bpb=1.1183, train_bpb=1.0067, core=0.26, core_partial=True),
            TasksRow(80, scores={"copa": 0.6}, counts={"copa": 100}, baselines={"copa": 0.5}),
            SampleRow(80, "The capital of France is", " Paris.\n\n| <b>odd</b>"),
            SampleRow(80, "Two plus two is", " four"),
        ],
    )
    counts = {"facts": 200, "letters": 100, "identity": 50}
    baselines = {"facts": 0.25, "letters": 0.0}
    before = TasksRow(80, {"facts": 0.27, "letters": 0.0}, counts, baselines)
    log_rows(paths, "baserun", "eval-chat", [before])
    log_training(paths, "sft", "sft", 40)
    after = replace(before, scores={"facts": 0.95, "letters": 0.85, "identity": 1.0})
    log_rows(paths, "sft", "eval-chat", [after])
    return paths
