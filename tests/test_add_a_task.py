"""docs/add-a-task.md does what it says: its file, its row and its commands, in a copy of the package."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.eval.conftest import random_model, save
from tests.eval.conftest import tokenizer as tokenizer

DOCUMENT = (REPOSITORY / "docs" / "add-a-task.md").read_text()


def block(language: str) -> str:
    [found] = re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    return found


@pytest.mark.slow
def test_the_document_adds_a_task(tmp_path: Path, tokenizer) -> None:
    copy = tmp_path / "repository"
    shutil.copytree(REPOSITORY / "nanochat", copy / "nanochat")
    (copy / "nanochat" / "tasks" / "seasons.py").write_text(block("python"))
    subprocess.run(["git", "apply", "-p1", "-"], cwd=copy, input=block("diff"), text=True, check=True)
    save("sft", random_model(tokenizer, 128), tokenizer, {})
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    commands = [line for line in block("bash").splitlines() if line]
    assert commands
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "nanochat"
        done = subprocess.run(
            [sys.executable, "-m", "nanochat", *arguments],
            cwd=copy,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        assert "seasons" in done.stderr
