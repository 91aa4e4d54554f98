"""Real clients over real HTTP: OpenAI's package in its present major version and 2.x, LangChain, LlamaIndex."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serve import client_checks
from tests.serve.conftest import CHAT, Endings, Running

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
OTHER = Path(os.environ.get("NANOCHAT_CLIENTS_PYTHON", ROOT / ".venv-clients" / "bin" / "python"))
"""An environment with older clients, which this one cannot hold beside the newest: see runs/clients.sh."""


def run(python: Path, check: str, module: str, server: Running) -> None:
    if not python.exists():
        pytest.skip(f"no environment with older clients at {python} (bash runs/clients.sh)")
    if subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode:
        pytest.skip(f"{module} is not installed for {python} (bash runs/setup.sh --dev)")
    script = Path(client_checks.__file__)
    done = subprocess.run(
        [python, script, check, server.url, CHAT], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr


HERE = Path(sys.executable)


def test_openai(server: Running, endings: Endings) -> None:
    run(HERE, "openai", "openai", server)
    reasons = []
    while "abort" not in reasons:
        reasons.append(endings.next())
    assert server.worker().outstanding == 0


def test_langchain(server: Running) -> None:
    run(HERE, "langchain", "langchain_openai", server)


def test_openai_of_an_older_major_version(server: Running) -> None:
    run(OTHER, "openai", "openai", server)


def test_llama_index(server: Running) -> None:
    run(OTHER, "llama-index", "llama_index.llms.openai_like", server)
