"""Hostile programs, run for real: none reads a secret, changes the host, outlives its call or escapes its limits.

They stand in programs/*.txt. One that prints SECRET has reached what it must not reach.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from nanochat.sandbox.python import Execution, run_python
from tests.sandbox.conftest import SECRET, Host, load_programs

pytestmark = pytest.mark.slow

GROUPS = ("reading", "changing", "lasting")
_TIMEOUT_S = 1.5
_MEMORY_BYTES = 256 << 20
_PATIENCE_S = 60.0
_SLEEP = "import time; time.sleep(99)"


def _run_all(host: Host, programs: dict[str, str]) -> dict[str, Execution]:
    def run(code: str) -> Execution:
        return run_python(host.fill(code), timeout_s=_TIMEOUT_S, memory_bytes=_MEMORY_BYTES)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return dict(zip(programs, pool.map(run, programs.values()), strict=True))


def test_nothing_outlives_a_caller_that_is_killed(host: Host) -> None:
    program = f"import os, sys\nos.execv(sys.executable, ['python', '-c', '{_SLEEP}', '{host.folder}'])"
    caller = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"from nanochat.sandbox.python import run_python\nrun_python({program!r}, timeout_s=99)",
        ]
    )
    _wait_until(lambda: any(process.cmdline()[2] == _SLEEP for process in host.survivors()))
    caller.kill()
    caller.wait()
    _wait_until(lambda: host.survivors() == [])


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_there_are_enough_of_them() -> None:
    assert sum(len(load_programs(group)) for group in GROUPS) >= 60


@pytest.mark.parametrize("group", GROUPS)
def test_hostile_programs(host: Host, group: str) -> None:
    before = host.state()
    results = _run_all(host, load_programs(group))
    assert host.survivors() == []
    assert host.state() == before
    assert os.uname().nodename != "changed"
    assert {name for name, result in results.items() if "SyntaxError" in result.stderr} == set()
    outputs = {name: result.stdout + result.stderr for name, result in results.items()}
    assert {name for name, output in outputs.items() if SECRET in output} == set()
    assert {name for name, result in results.items() if "SECRET" in result.stdout} == set()
