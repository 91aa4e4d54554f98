"""Training in subprocesses: killed at any moment, on several processes, without a compiler."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from nanochat.checkpoint import store
from nanochat.paths import default_paths

pytestmark = pytest.mark.slow

STEPS = 14
KILLS = int(os.environ.get("NANOCHAT_KILLS", 2))
PATIENCE_S = 120
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone")


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
    """Start a run, wait until it has saved the given number of further steps, and SIGKILL it shortly after."""
    process = subprocess.Popen([sys.executable, "-m", "nanochat", *arguments], stderr=subprocess.DEVNULL)
    saved = len(store.whole_steps(directory))
    deadline = time.monotonic() + PATIENCE_S
    while len(store.whole_steps(directory)) < saved + steps and process.poll() is None:
        assert time.monotonic() < deadline, "the run made no progress"
        time.sleep(0.001)
    time.sleep(delay_s)  # the delay is the test's input, not a wait for something
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_killed_at_random_moments_the_run_ends_with_the_same_bits(corpus: Path) -> None:
    """It saves at every step, so that most kills hit a save."""
    saving = ("--save-every=1", "--keep-last=100", "--compile=off")
    assert nanochat(command(corpus, "whole", *saving)).returncode == 0
    chance = random.Random(0)
    directory = default_paths().checkpoints("broken")
    for _ in range(KILLS):
        kill_after_steps(command(corpus, "broken", *saving), directory, 1, chance.uniform(0, 0.03))
    finished = nanochat(command(corpus, "broken", *saving))
    assert finished.returncode == 0, finished.stderr
    assert hashes("broken") == hashes("whole")


def test_without_a_compiler_auto_stays_eager_and_on_is_refused(corpus: Path, tmp_path: Path) -> None:
    without = {"CXX": "/nonexistent/c++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}
    refused = nanochat(command(corpus, "demanded", "--compile=on"), **without)
    assert refused.returncode == 1
    assert "--compile auto" in refused.stderr.splitlines()[-1]
    assert "Traceback" not in refused.stderr
    assert not store.whole_steps(default_paths().checkpoints("demanded"))
    willing = nanochat(command(corpus, "willing", "--compile=auto"), **without)
    assert willing.returncode == 0


@contextmanager
def torchrun(
    *arguments: str, processes: int = 2
) -> Iterator[tuple[subprocess.Popen[str], Callable[[str], str]]]:
    """A running torchrun, and a function that reads its stderr up to a given text."""
    process = subprocess.Popen(
        [*TORCHRUN, f"--nproc_per_node={processes}", *arguments], stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stderr is not None
    lines = process.stderr

    def read_until(word: str) -> str:
        text = ""
        for line in lines:
            text += line
            if word in line:
                return text
        pytest.fail(f"{word!r} did not appear: {text}")

    watchdog = threading.Timer(PATIENCE_S, process.kill)
    watchdog.start()
    try:
        yield process, read_until
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()


@pytest.mark.parametrize("numbers", [(signal.SIGTERM,), (signal.SIGINT, signal.SIGINT)])
def test_a_signal_to_torchrun_leaves_time_for_a_slow_save(
    corpus: Path, numbers: Sequence[signal.Signals]
) -> None:
    """Ctrl-C twice: torchrun forwards both, the second as SIGTERM during the save."""
    endless = command(corpus, "slow", "--compile=off", "--eval-every=1", steps=100_000)
    script = str(Path(__file__).with_name("slow_save.py"))
    with torchrun(script, *endless) as (process, read_until):
        read_until("step 3: val_bpb")
        process.send_signal(numbers[0])
        read_until("saving")
        for number in numbers[1:]:
            process.send_signal(number)
        said = read_until("continue with: ")
    [step] = store.whole_steps(default_paths().checkpoints("slow"))
    assert step >= 3
    hint = said.splitlines()[-1]
    assert f"stopped at step {step}, saved" in hint
    assert "torchrun --standalone --nproc_per_node=2 -m nanochat pretrain --depth=1" in hint
    assert hint.endswith("--resume auto")


def test_when_a_process_is_killed_the_others_say_which_and_end(corpus: Path) -> None:
    endless = command(corpus, "killed", "--compile=off", "--eval-every=1", steps=100_000)
    with torchrun("-m", "nanochat", *endless, processes=3) as (process, read_until):
        read_until("step 3: val_bpb")
        workers = psutil.Process(process.pid).children()
        victim = next(worker for worker in workers if worker.environ()["RANK"] == "1")
        victim.kill()
        said = read_until("error: process 1 failed: no sign of life")
        _, alive = psutil.wait_procs(workers, timeout=PATIENCE_S)
    assert not alive
    assert "Traceback" not in said
