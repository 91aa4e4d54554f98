"""The examples of docs/serving.md do what they say, as they are written."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat.serve.server import ServeConfig
from tests.serve.conftest import Running

pytestmark = pytest.mark.slow

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "serving.md").read_text()
ADDRESS = "http://127.0.0.1:8000"
CURL = re.findall(r"^curl (?:[^'\n]|'[^']*')*$", TEXT, re.MULTILINE)
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_the_examples_are_found_and_name_the_default_address() -> None:
    assert len(CURL) == TEXT.count("\ncurl ") > 10
    assert len(PYTHON) == 1
    config = ServeConfig()
    assert f"http://{config.host}:{config.port}" == ADDRESS
    assert all(ADDRESS in example for example in (*CURL, *PYTHON))


@pytest.mark.parametrize("example", CURL)
def test_a_curl_example(server: Running, example: str) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    done = subprocess.run(
        ["bash", "-c", example.replace(ADDRESS, server.url).replace("curl ", "curl --fail-with-body ", 1)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout
    assert '"error"' not in done.stdout


@pytest.mark.parametrize("example", PYTHON)
def test_a_python_example(server: Running, example: str) -> None:
    pytest.importorskip("openai", reason="the openai package (dependency group clients)")
    done = subprocess.run(
        [sys.executable, "-c", example.replace(ADDRESS, server.url)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
