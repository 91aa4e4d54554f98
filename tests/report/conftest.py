"""A base directory as a whole pipeline leaves it: metrics files of every stage, an interrupted run included."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from nanochat import hardware
from nanochat.metrics import open_metrics
from nanochat.paths import Paths
from nanochat.report.generate import GenerateConfig, GenerateResult, run_generate

CONFIG: dict[str, Any] = {"depth": 4, "dataset": "builtin", "sft": {"epochs": 2}}
SIZES = {"n_layer": 4, "n_embd": 256, "n_head": 4, "head_dim": 64, "max_seq_len": 256, "vocab_size": 2048}
PLAN = {"depth": 4, "model": SIZES}
MACHINE = {
    "cpu": hardware.Cpu("Test CPU | 3000", "TestVendor", 2, 4, 2.0, ("avx2",)),
    "memory": hardware.Memory(8 << 30, 4 << 30),
    "accelerators": [hardware.Accelerator("Test GPU", 80 << 30, "9.0")] * 8,
}
SOFTWARE = {"python": "3.11.7", "torch": "2.13.0", "cuda": None, "revision": "abc123"}


def log_training(
    paths: Paths, run: str, stage: str, steps: int, *, begin: int = 0, end: int | None = None
) -> None:
    """What a training stage records from step `begin` (resumed there) to `end` (killed there)."""
    path = paths.metrics(run)
    with open_metrics(
        path, stage, wandb_run="dummy", config=CONFIG, enabled=True, resume=begin > 0
    ) as metrics:
        parameters = {"matrices": 3_000_000, "embedding": 500_000, "scalars": 0}
        metrics.log(
            "config", config=CONFIG, plan=PLAN, hardware=MACHINE, software=SOFTWARE, parameters=parameters
        )
        for step in range(begin + 1, (end or steps) + 1):
            done_share = step / steps
            metrics.log(
                "train",
                step=step,
                total_steps=steps,
                tokens=step * 4096,
                loss=2 + 5 * math.exp(-6 * done_share) + 0.05 * math.sin(step * 7),
                lr=0.02 * min(1, 20 * done_share, 2 * (1 - done_share)),
                grad_norm=1.0,
                tok_per_s=5000 + 100 * math.sin(step),
                mfu=None,
                elapsed_s=step * 0.8,
            )
            if step % (steps // 4) == 0:
                metrics.log(
                    "eval",
                    step=step,
                    val_bpb=1.1 + math.exp(-4 * done_share),
                    train_bpb=1 + math.exp(-5 * done_share),
                )
        if end is not None:
            return
        metrics.log("packing", used=steps * 4096, cropped=0, padded=128, epochs=1.25)
        metrics.log("done", step=steps, wall_s=steps * 0.8, peak_rss_bytes=1 << 30, compile_s=0.0)


def log_rows(paths: Paths, run: str, stage: str, rows: list[dict[str, Any]]) -> None:
    """What a stage appends to the file of a run."""
    path = paths.metrics(run)
    with open_metrics(path, stage, wandb_run="dummy", config={}, enabled=True, resume=True) as metrics:
        for row in rows:
            metrics.log(**row)


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
    """Pretraining (broken off once), both evaluations, SFT and its evaluation."""
    log_rows(
        paths,
        "tokenizer",
        "tokenizer",
        [
            {
                "kind": "tokenizer",
                "vocab_size": 2048,
                "documents": 12_000,
                "characters": 11_000_000,
                "bytes_per_token": 2.83,
            },
            {"kind": "done", "wall_s": 4.0, "peak_rss_bytes": 1 << 28},
        ],
    )
    compared = [
        {"name": name, "vocab_size": 2048, "bytes_per_token": {"prose": 2.8, "code": 1.9}} for name in "ab"
    ]
    compression = {"kind": "compression", "bytes": {"prose": 900, "code": 700}, "tokenizers": compared}
    log_rows(paths, "tokenizer", "tokenizer-eval", [compression])
    log_training(paths, "baserun", "pretrain", 80, end=60)
    log_training(paths, "baserun", "pretrain", 80, begin=40)
    baselines = {"facts": 0.25, "letters": 0.0}
    counts = {"facts": 200, "letters": 100, "identity": 50}
    log_rows(
        paths,
        "baserun",
        "eval-base",
        [
            {
                "kind": "eval",
                "step": 80,
                "val_bpb": 1.1183,
                "train_bpb": 1.0067,
                "core": 0.26,
                "core_partial": True,
            },
            {
                "kind": "tasks",
                "step": 80,
                "scores": {"copa": 0.6},
                "counts": {"copa": 100},
                "baselines": {"copa": 0.5},
            },
            {
                "kind": "sample",
                "step": 80,
                "prompt": "The capital of France is",
                "text": " Paris.\n\n| <b>odd</b>",
            },
            {"kind": "sample", "step": 80, "prompt": "Two plus two is", "text": " four"},
        ],
    )
    before = {"facts": 0.27, "letters": 0.0}
    after = {"facts": 0.95, "letters": 0.85, "identity": 1.0}
    tasks = {"kind": "tasks", "step": 80, "counts": counts, "baselines": baselines}
    log_rows(paths, "baserun", "eval-chat", [{**tasks, "scores": before}])
    log_training(paths, "sft", "sft", 40)
    log_rows(paths, "sft", "eval-chat", [{**tasks, "scores": after}])
    return paths
