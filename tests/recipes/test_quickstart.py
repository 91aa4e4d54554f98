"""The quickstart at toy size: interrupted, resumed, finished, and rerun with nothing left to do."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nanochat.metrics import rows_of
from nanochat.metrics_rows import TrainRow

TINY = (
    "pretrain.depth=1",
    "pretrain.num-iterations=200",
    "pretrain.total-batch-size=1024",
    "pretrain.eval-bytes=2000",
    "eval-base.max-bytes=2000",
    "eval-before.max-items=2",
    "sft.mixture=builtin*0.05",
    "sft.num-iterations=3",
    "sft.eval-conversations=4",
    "eval-chat.max-items=2",
)
COMMAND = [sys.executable, "-m", "nanochat", "run", "quickstart", "--json", "--set", *TINY]


@pytest.fixture
def environment(base_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return base_dir


def _interrupt_pretraining(base: Path) -> None:
    """Begin the recipe and press Ctrl-C once its model is being trained."""
    recipe = subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = base / "runs" / "baserun" / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while not (metrics.exists() and '"train"' in metrics.read_text()):
        assert recipe.poll() is None, recipe.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    recipe.send_signal(signal.SIGINT)
    out, err = recipe.communicate(timeout=120)
    assert recipe.returncode == 0, err
    assert "continue with: " in err.splitlines()[-1]
    assert [stage["status"] for stage in json.loads(out)["stages"]] == ["done", "done", "interrupted"]


@pytest.mark.slow
def test_quickstart_from_nothing_to_answers(environment: Path) -> None:
    base = environment
    _interrupt_pretraining(base)
    done = subprocess.run(COMMAND, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    statuses = {stage["name"]: stage["status"] for stage in json.loads(done.stdout)["stages"]}
    assert statuses.pop("reset") == statuses.pop("tokenizer") == "skipped"
    assert set(statuses.values()) == {"done"}
    assert "resuming baserun at step" in done.stderr
    for words in ("What is the capital of France?", "report.html", "checkpoints/sft", "nanochat chat"):
        assert words in done.stderr

    report = (base / "report" / "report.md").read_text()
    assert "Not done yet" not in report
    for words in ("1 layers, width 64", "builtin-arithmetic", "Who are you?", "| pretrain |"):
        assert words in report
    steps = [row.step for row in rows_of(base / "runs" / "baserun" / "metrics.jsonl", TrainRow)]
    assert steps == list(range(1, 201)), "the steps before the interruption were kept, none was repeated"

    again = subprocess.run(COMMAND, capture_output=True, text=True, timeout=60)
    assert {stage["status"] for stage in json.loads(again.stdout)["stages"]} == {"skipped"}
