"""`RUN` and `RUN@STEP` mean one thing for every caller."""

from pathlib import Path

import pytest

from nanochat.checkpoint.loading import open_checkpoint
from nanochat.paths import default_paths
from nanochat.runtime import open_runtime
from tests.checkpoint.conftest import STEP


def test_a_step_is_named_after_the_run_or_beside_it(run: Path) -> None:
    default_paths().all_checkpoints.mkdir(parents=True)
    run.rename(default_paths().checkpoints("tiny"))
    with open_runtime("cpu", "fp32") as runtime:
        for model, step in (("tiny", None), (f"tiny@{STEP}", None), ("tiny", STEP), (f"tiny@{STEP}", STEP)):
            opened = open_checkpoint(model, runtime, step)
            assert (opened.step, opened.directory.name) == (STEP, "tiny")
        wrong = (("tiny@4", None, "no checkpoint of step 4"), ("tiny@x", None, "number of a step"))
        for model, step, message in (*wrong, ("tiny@4", STEP, "give one"), ("other@5", None, "run 'other'")):
            with pytest.raises(ValueError, match=message):
                open_checkpoint(model, runtime, step)
