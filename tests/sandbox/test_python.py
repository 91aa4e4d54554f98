"""What a sandboxed program can do, and what happens when it tries forbidden operations."""

import os
import shutil
import tempfile
from pathlib import Path

import psutil
import pytest

from nanochat.sandbox import python
from nanochat.sandbox.python import MAX_OUTPUT_BYTES, Execution, run_python

pytestmark = pytest.mark.slow

UNCONFINED_GUEST = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"


@pytest.fixture(params=[True, False], ids=["namespaces", "limits"])
def namespaces(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture
def kernel_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Disables the audit hook, so that only the kernel protects; skips if the kernel does not."""
    if run_python("import os; print(os.getpid())").stdout != "1\n":
        pytest.skip("this kernel, or the container, allows no user namespaces")
    jail = Path(shutil.copy(python._JAIL, tmp_path / "jail.py"))
    (tmp_path / "guest.py").write_text(UNCONFINED_GUEST)
    monkeypatch.setattr(python, "_JAIL", jail)
    return tmp_path


def left_behind(marker: Path) -> list[psutil.Process]:
    return [p for p in psutil.process_iter() if any(str(marker) in part for part in command_line(p))]


def command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_output_and_input(namespaces: bool) -> None:
    code = "import sys\nprint('hé', input(), __name__)\nprint('oops', file=sys.stderr)"
    result = run_python(code, stdin="wörld\n", namespaces=namespaces)
    assert result == Execution(ok=True, stdout="hé wörld __main__\n", stderr="oops\n", timed_out=False)


@pytest.mark.parametrize(
    ("code", "ok", "stderr"),
    [
        ("import sys; sys.exit(0)", True, ""),
        ("exit(3)", False, ""),
        ("assert 1 + 1 == 3", False, "AssertionError"),
        ("def (", False, "SyntaxError"),
        ("'\ud800'", True, ""),
        ("import os; os.abort()", False, ""),
        ("import pickle\nclass A: x = 1\nassert pickle.loads(pickle.dumps(A())).x", True, ""),
        ("import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()", True, ""),
    ],
)
def test_how_a_program_ends(code: str, ok: bool, stderr: str, namespaces: bool) -> None:
    result = run_python(code, namespaces=namespaces)
    assert (result.ok, result.timed_out) == (ok, False)
    assert stderr in result.stderr
    assert "guest.py" not in result.stderr


def test_an_endless_loop_is_killed(namespaces: bool) -> None:
    result = run_python("print('begun', flush=True)\nwhile True: pass", timeout_s=0.7, namespaces=namespaces)
    assert result == Execution(ok=False, stdout="begun\n", stderr="", timed_out=True)


def test_an_endless_sleep_that_ignores_signals_is_killed(namespaces: bool) -> None:
    code = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(100)"
    assert run_python(code, timeout_s=0.5, namespaces=namespaces).timed_out


def test_a_memory_bomb_fails(namespaces: bool) -> None:
    code = "x = bytearray(200 << 20)"
    result = run_python(code, memory_bytes=100 << 20, namespaces=namespaces)
    assert not result.ok
    assert "MemoryError" in result.stderr
    assert run_python(code, namespaces=namespaces).ok


FORBIDDEN = (
    "import socket; socket.socket()",
    "import socket; socket.create_connection(('127.0.0.1', 9))",
    "import urllib.request; urllib.request.build_opener().open('http://example.com')",
    "import os; os.fork()",
    "import subprocess; subprocess.run(['true'])",
    "import os; os.system('true')",
    "import os; os.execv('/bin/true', ['true'])",
    "import os; os.kill(os.getppid() or 1, 9)",
    "import ctypes; ctypes.CDLL(None)",
    "open('../stolen', 'w')",
    "import os; os.remove('../stdin')",
    "import os; os.rename('../stdin', 'stdin')",
    "import shutil; shutil.rmtree('..')",
)


def test_forbidden_operations_raise_in_the_program(namespaces: bool) -> None:
    code = (
        f"for act in {FORBIDDEN!r}:\n"
        "    try: exec(act)\n"
        "    except Exception as error: print(act, '->', error)\n"
        "    else: print(act, 'was allowed')\n"
    )
    lines = run_python(code, namespaces=namespaces).stdout.splitlines()
    assert len(lines) == len(FORBIDDEN)
    assert [line for line in lines if "not allowed in the sandbox" not in line] == []


def test_files_stay_in_the_work_folder_and_are_deleted(namespaces: bool) -> None:
    code = (
        "import os, tempfile\n"
        "open('a', 'w').write('x'); os.mkdir('b'); os.rename('a', 'b/a')\n"
        "with tempfile.NamedTemporaryFile('w') as file: file.write('y')\n"
        "open(os.devnull, 'w').write('z')\n"
        "print(os.getcwd(), os.listdir('.'), os.listdir('b'))"
    )
    result = run_python(code, namespaces=namespaces)
    assert result.stderr == ""
    folder, listing = result.stdout.split(" ", 1)
    assert listing == "['b'] ['a']\n"
    assert not Path(folder).parent.exists()


def test_the_environment_is_empty(monkeypatch: pytest.MonkeyPatch, namespaces: bool) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    code = (
        "import os, sys; print(sorted(set(os.environ) - {'LC_CTYPE', '__CF_USER_TEXT_ENCODING'}), sys.path)"
    )
    shown = run_python(code, namespaces=namespaces).stdout
    assert shown.startswith("['HOME', 'TMPDIR'] ")
    assert str(Path.cwd()) not in shown
    assert not run_python("import numpy", namespaces=namespaces).ok


def test_output_is_bounded(namespaces: bool) -> None:
    result = run_python("while True: print('é' * 1000)", timeout_s=20, namespaces=namespaces)
    assert not result.ok
    assert "File too large" in result.stderr
    assert len(result.stdout.encode()) <= MAX_OUTPUT_BYTES + 2


def test_no_file_of_the_host_can_be_filled(namespaces: bool) -> None:
    result = run_python("f = open('big', 'wb')\nwhile True: f.write(bytes(1 << 20))", namespaces=namespaces)
    assert not result.ok
    assert "File too large" in result.stderr or "No space left" in result.stderr


def test_the_kernel_alone_leaves_no_process_behind(kernel_alone: Path) -> None:
    code = (
        "import os, sys, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        time.sleep(60)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "print('daemon started')\n"
    )
    assert run_python(code).stdout == "daemon started\n"
    assert left_behind(kernel_alone) == []
    assert run_python(code + "time.sleep(60)", timeout_s=0.7).timed_out
    assert left_behind(kernel_alone) == []


def test_the_kernel_alone_blocks_signals_to_other_processes(kernel_alone: Path) -> None:
    code = (
        "import os\n"
        "for target in (0, -1, os.getppid()):\n"
        "    try: os.kill(target, 9)\n"
        "    except ProcessLookupError: pass\n"
        "print('alone', os.getpid())\n"
    )
    assert run_python(code).stdout == "alone 1\n"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import socket; socket.create_connection(('127.0.0.1', 9))", "Network is unreachable"),
        ("import socket; assert len(socket.if_nameindex()) > 1", "AssertionError"),
        ("open('../stolen', 'w')", "Read-only file system"),
        (f"open({tempfile.gettempdir()!r} + '/stolen', 'w')", "Read-only file system"),
        ("import os; os.unlink('../main.py')", "Read-only file system"),
        ("import os; os.setuid(0)", "Invalid argument"),
        pytest.param(
            f"open('/proc/{os.getpid()}/environ')", "Permission denied", id="the tests' own environment"
        ),
    ],
)
def test_the_kernel_alone_refuses(kernel_alone: Path, code: str, error: str) -> None:
    result = run_python(code)
    assert not result.ok
    assert error in result.stderr


def test_a_timeout_must_be_positive() -> None:
    with pytest.raises(ValueError, match="timeout_s must be positive"):
        run_python("", timeout_s=0)
