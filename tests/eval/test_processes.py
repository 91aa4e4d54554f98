"""Both verbs give the same result with one process and with two under torchrun."""

import json
import os
import subprocess
import sys

import pytest

ONE = ("-m", "nanochat")
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "nanochat")


def nanochat(launch, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *launch, *arguments], capture_output=True, text=True, timeout=240, env=environment
    )


def result(launch, *arguments):
    done = nanochat(launch, *arguments, "--json", "--dtype=fp32")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_eval_base(checkpoint):
    one, two = (result(launch, "eval", "base", "--model-tag", checkpoint) for launch in (ONE, TWO))
    for split in ("train", "val"):
        assert one[split].pop("nats") == pytest.approx(two[split].pop("nats"), rel=1e-6)
        assert one[split].pop("bpb") == pytest.approx(two[split].pop("bpb"), rel=1e-6)
    assert one == two


@pytest.mark.slow
def test_eval_chat(checkpoint):
    arguments = (
        "eval",
        "chat",
        "--model-tag",
        checkpoint,
        "--suite",
        "builtin-choice,builtin-facts",
        "--max-items",
        "9",
    )
    one, two = (result(launch, *arguments) for launch in (ONE, TWO))
    for task in (*one["tasks"], *two["tasks"]):
        del task["failures"]
    assert one == two


@pytest.mark.slow
def test_an_unknown_run_is_one_line_and_status_2(checkpoint):
    for verb in ("base", "chat"):
        done = nanochat(ONE, "eval", verb, "--model-tag", "nothing")
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "nothing" in done.stderr
