"""A stage that is a real process controlled by flags, to test the runner without a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanochat.paths import Paths
from nanochat.recipes.recipe import Flags

SCRIPT = """
import argparse, json, os, signal, sys, time
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("name")
parser.add_argument("--exit", type=int, default=0)
parser.add_argument("--file")                      # leaves this file below the base directory
parser.add_argument("--model-tag")                 # behaves like a training stage that makes this run
parser.add_argument("--steps", type=int, default=4)
parser.add_argument("--wait-for")                  # waits until this file exists below the base directory
parser.add_argument("--until-signal", action="store_true")
parser.add_argument("--dies-of-signals", action="store_true")
parser.add_argument("--value")
options = parser.parse_args()
base = Path(os.environ["NANOCHAT_BASE_DIR"])
stopped = []
for number in (signal.SIGINT, signal.SIGTERM):
    if not options.dies_of_signals:
        signal.signal(number, lambda number, frame: stopped.append(number))

with open(base / "calls.txt", "a") as calls:
    calls.write(options.name + "\\n")

def wait(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)

if options.wait_for:
    wait(lambda: (base / options.wait_for).exists())
if options.file:
    (base / options.file).write_text("made")
if options.model_tag:
    home = base / "runs" / options.model_tag / "metrics.jsonl"
    folder = base / "checkpoints" / options.model_tag
    home.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    first = max((int(path.name[5:11]) for path in folder.iterdir()), default=0)
    with open(home, "a" if first else "w") as metrics:
        def log(kind, **values):
            row = {"kind": kind, "stage": "pretrain", "time": time.time(), **values}
            print(json.dumps(row), file=metrics, flush=True)
        for step in range(first + 1, options.steps + 1):
            log("train", step=step, total_steps=options.steps, tokens=step, loss=1.0, lr=1.0, grad_norm=1.0,
                tok_per_s=1.0, mfu=None, elapsed_s=1.0, skipped_steps=0)
            if options.until_signal:
                wait(lambda: stopped)
            if stopped:
                break
        (folder / f"step_{step:06d}_meta.pt").write_text("a checkpoint")
        log("done", step=step, wall_s=1.0)
elif options.until_signal:
    wait(lambda: stopped)
sys.exit(options.exit)
"""


def trained(flags: Flags, paths: Paths) -> bool:
    """Whether such a training stage reached its last step."""
    folder = paths.checkpoints(flags["model-tag"])
    return (folder / f"step_{int(flags.get('steps', 4)):06d}_meta.pt").exists()


def never(flags: Flags, paths: Paths) -> bool:
    """The result of a stage that does not finish."""
    return False


def leaves_file(flags: Flags, paths: Paths) -> bool:
    """Whether the file named by `--file` exists."""
    return (paths.base / flags["file"]).exists()


@pytest.fixture
def paths(base_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """An empty base directory; `fakestage` can be run as a module."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "fakestage.py").write_text(SCRIPT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    base_dir.mkdir()
    return Paths(base_dir)
