"""Stopping: running answers finish, waiting ones are told, processes end with status 0."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from nanochat.cli.main import main
from tests.serve.conftest import CHAT, Gate
from tests.serve.test_load import in_background

pytestmark = pytest.mark.slow

HI = {"messages": [{"role": "user", "content": "hi"}]}


def test_a_stopping_server_finishes_what_runs_and_refuses_what_waits(
    new_server: Callable[..., Any], gate: Gate
) -> None:
    with new_server(max_rows=1) as server:
        running, answer = in_background(lambda: server.chat(max_tokens=6, stream=True))
        assert gate.reached.acquire(timeout=60)
        waiting, refusal = in_background(lambda: server.chat(max_tokens=2, stream=True))
        while server.worker().outstanding < 2:
            server.settle()
        server.loop.call_soon_threadsafe(server.server.stop)
        server.settle()  # the refusals are in the inbox before the engine looks there again
        gate.permits.release()
        waiting.join(60)
        assert refusal[0].status == 503
        assert refusal[0].error["code"] == "stopping"
        assert "retry-after" in refusal[0].headers
        gate.open()
        running.join(60)
        assert answer[0].events[-1]["choices"][0]["finish_reason"] == "length"
        server.thread.join(60)
        with pytest.raises(ConnectionRefusedError):
            server.chat()


@contextmanager
def process(base: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`nanochat serve` in a process, and its address."""
    command = [sys.executable, "-m", "nanochat", "serve", "--model", CHAT, "--port", "0", *flags]
    environment = {**os.environ, "NANOCHAT_BASE_DIR": str(base)}
    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert started.stderr is not None
    try:
        found = re.search(r"http://[\w.:]+", started.stderr.readline())
        assert found
        yield started, found[0]
    finally:
        if started.poll() is None:
            started.kill()
        started.wait()
        started.stderr.close()


def ask(url: str, **fields: Any) -> dict[str, Any]:
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps({**HI, **fields}).encode())
    with urllib.request.urlopen(request, timeout=120) as response:
        return json.load(response)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_quietly(served_base: Path, number: signal.Signals) -> None:
    with process(served_base, "--device", "cpu") as (server, url):
        assert ask(url, max_tokens=3)["usage"]["completion_tokens"] == 3
        server.send_signal(number)
        assert server.wait(60) == 0
        assert server.stderr is not None
        assert re.fullmatch(r"\d\d:\d\d:\d\d POST /v1/chat/completions 200 \d+ ms\n", server.stderr.read())


def test_a_signal_while_the_model_loads_ends_the_process(served_base: Path) -> None:
    with process(served_base) as (server, _):
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) in (0, -signal.SIGTERM)  # before Python's handlers, the system's default
        assert server.stderr is not None
        assert "Traceback" not in server.stderr.read()


def test_replicas_answer_behind_one_port_and_end_together(served_base: Path) -> None:
    with process(served_base, "--replicas", "2", "--device", "cpu", "--dtype", "fp32") as (server, url):
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda seed: ask(url, seed=1, max_tokens=5), range(32)))
        assert len({json.dumps(answer["choices"]) for answer in answers}) == 1
        metrics = urllib.request.urlopen(f"{url}/metrics", timeout=60).read().decode()
        assert f'vllm:generation_tokens_total{{model_name="{CHAT}"}} 160.0' in metrics  # of all replicas
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
        assert server.stderr is not None
        assert "Traceback" not in server.stderr.read()


@pytest.mark.parametrize("by_terminal", [False, True], ids=["SIGTERM", "Ctrl-C"])
def test_replicas_that_are_stopped_while_they_start_are_no_failure(
    served_base: Path, by_terminal: bool
) -> None:
    with process(served_base, "--replicas", "2", "--device", "cpu") as (server, _):
        children = psutil.Process(server.pid).children()
        while len(children) < 2:
            children = psutil.Process(server.pid).children()
        if by_terminal:  # which sends it to every process of the foreground
            for child in children:
                child.send_signal(signal.SIGINT)
        server.send_signal(signal.SIGINT if by_terminal else signal.SIGTERM)
        assert server.wait(60) == 0
        assert server.stderr is not None
        assert "Traceback" not in server.stderr.read()


def test_a_missing_model_and_a_taken_port_cost_one_line(
    served_base: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(served_base))
    assert main(["serve", "--model", "nope"]) == 2
    assert main(["serve", "--model", CHAT, "--max-rows", "0"]) == 2
    assert main(["serve", "--model", CHAT, "--temperature", "-1"]) == 2
    assert main(["serve", "--model", CHAT, "--port", "70000"]) == 2
    assert main(["serve", "--model", CHAT, "--host", "not a host"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5, lines
    assert all(line.startswith("nanochat: error: ") for line in lines)


@pytest.mark.parametrize("flag", ["--max-seconds", "--memory"])
def test_an_infinite_limit_costs_one_line(
    served_base: Path, monkeypatch: Any, capsys: Any, flag: str
) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(served_base))
    assert main(["serve", "--model", CHAT, "--port", "70000", flag, "inf"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"nanochat: error: {flag} must be ")


def test_a_taken_port_says_what_to_do(
    new_server: Callable[..., Any], served_base: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(served_base))
    with new_server() as server:
        assert main(["serve", "--model", CHAT, "--port", str(server.port)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "choose another --port" in line
