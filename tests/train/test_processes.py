"""Training as whole processes: killed at any moment, on several processes, without a compiler."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from nanochat.checkpoint import store
from nanochat.metrics import rows_of
from nanochat.metrics_rows import TrainRow
from nanochat.paths import default_paths

pytestmark = pytest.mark.slow

STEPS = 14
KILLS = 10
PATIENCE_S = 120


def command(corpus: Path, tag: str, *more: str, steps: int = STEPS) -> list[str]:
    return [
        *("pretrain", "--depth=1", f"--dataset={corpus}", f"--model-tag={tag}", "--resume=auto"),
        *("--max-seq-len=32", "--head-dim=32", "--total-batch-size=256", f"--num-iterations={steps}"),
        *("--eval-every=0", "--eval-bytes=2000", "--save-minutes=0", *more),
    ]


def nanochat(arguments: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nanochat", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, **environment},
    )


def hashes(tag: str) -> dict[str, str]:
    meta = store.load_meta(default_paths().checkpoints(tag), STEPS)
    return {part: facts.sha256 for part, facts in meta.files.items()}


def kill_after_steps(arguments: Sequence[str], directory: Path, steps: int, delay_s: float) -> None:
    """Start a run, wait until it has saved so many more steps, and SIGKILL it a moment later."""
    process = subprocess.Popen([sys.executable, "-m", "nanochat", *arguments], stderr=subprocess.DEVNULL)
    saved = len(store.steps(directory))
    deadline = time.monotonic() + PATIENCE_S
    while len(store.steps(directory)) < saved + steps and process.poll() is None:
        assert time.monotonic() < deadline, "the run made no progress"
        time.sleep(0.001)
    time.sleep(delay_s)  # the moment is the test's input, any will do
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_killed_at_ten_random_moments_the_run_ends_with_the_same_bits(corpus: Path) -> None:
    """It saves at every step, so that most moments lie within a save."""
    saving = ("--save-every=1", "--keep-last=100", "--compile=off")
    assert nanochat(command(corpus, "whole", *saving)).returncode == 0
    chance = random.Random(0)
    directory = default_paths().checkpoints("broken")
    for _ in range(KILLS):
        kill_after_steps(command(corpus, "broken", *saving), directory, 1, chance.uniform(0, 0.03))
    finished = nanochat(command(corpus, "broken", *saving))
    assert finished.returncode == 0, finished.stderr
    assert hashes("broken") == hashes("whole")


def test_two_processes_train_to_the_losses_of_one_and_resume_each_others_runs(corpus: Path) -> None:
    eager = ("--compile=off",)
    assert nanochat(command(corpus, "one", *eager)).returncode == 0
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        "-m",
        "nanochat",
    ]
    for tag, steps in (("two", STEPS), ("both", 6)):
        done = subprocess.run(
            [*launcher, *command(corpus, tag, *eager, "--save-every=6", "--keep-last=9", steps=STEPS)],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, done.stderr
        for step in store.steps(default_paths().checkpoints(tag)):
            if step > steps:
                store.remove(default_paths().checkpoints(tag), step)
    assert nanochat(command(corpus, "both", *eager)).returncode == 0
    curves = {tag: losses(tag) for tag in ("one", "two", "both")}
    assert curves["two"] == pytest.approx(curves["one"], rel=3e-5)
    assert curves["both"] == pytest.approx(curves["one"], rel=3e-5)


def losses(tag: str) -> list[float]:
    rows = rows_of(default_paths().metrics(tag), TrainRow)
    return list({row.step: row.loss for row in rows}.values())


def test_without_a_compiler_auto_stays_eager_and_on_is_refused(corpus: Path, tmp_path: Path) -> None:
    without = {"CXX": "/nonexistent/c++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}
    refused = nanochat(command(corpus, "demanded", "--compile=on"), **without)
    assert refused.returncode == 1
    assert "--compile auto" in refused.stderr.splitlines()[-1]
    assert "Traceback" not in refused.stderr
    assert not store.steps(default_paths().checkpoints("demanded"))
    willing = nanochat(command(corpus, "willing", "--compile=auto"), **without)
    assert willing.returncode == 0
