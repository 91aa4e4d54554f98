"""How programs end in the sandbox, what they see, and when they are refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat.errors import EnvironmentFault
from nanochat.sandbox import exchange
from nanochat.sandbox.exchange import MAX_OUTPUT_BYTES
from nanochat.sandbox.isolation import NEEDS
from nanochat.sandbox.python import Execution, Isolation, run_python

pytestmark = pytest.mark.slow

WHOLE = Isolation.lacking({})


@pytest.fixture(params=[(), ("user namespace",)], ids=["whole", "without namespaces"])
def left_out(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return request.param


def run(code: str, left_out: tuple[str, ...] = (), **options) -> Execution:
    return run_python(code, unsafe=bool(left_out), without=left_out, **options)


def test_output_and_no_input(left_out: tuple[str, ...]) -> None:
    code = "import sys\nprint('hé', sys.stdin.read(), __name__)\nprint('oops', file=sys.stderr)"
    result = run(code, left_out)
    assert (result.ok, result.stdout, result.stderr, result.stopped) == (
        True,
        "hé  __main__\n",
        "oops\n",
        "",
    )
    assert result.isolation.is_whole == (not left_out)


@pytest.mark.parametrize(
    ("code", "ok", "stderr"),
    [
        ("import sys; sys.exit(0)", True, ""),
        ("exit(3)", False, ""),
        (
            "assert 1 + 1 == 3",
            False,
            'Traceback (most recent call last):\n  File "program.py", line 1, in <module>',
        ),
        ("def (", False, "SyntaxError"),
        ("'\ud800'", True, ""),
        ("import os; os.abort()", False, ""),
        ("import pickle\nclass A: x = 1\nassert pickle.loads(pickle.dumps(A())).x", True, ""),
        ("import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()", True, ""),
        ("input()", False, "EOFError"),
    ],
)
def test_how_a_program_ends(code: str, ok: bool, stderr: str, left_out: tuple[str, ...]) -> None:
    result = run(code, left_out)
    assert (result.ok, result.stopped) == (ok, "")
    assert stderr in result.stderr
    assert "guest.py" not in result.stderr


def test_an_endless_loop_is_killed(left_out: tuple[str, ...]) -> None:
    result = run("print('begun', flush=True)\nwhile True: pass", left_out, timeout_s=1)
    assert (result.ok, result.stdout, result.stderr, result.stopped) == (False, "begun\n", "", "time")


def test_a_program_cannot_stop_its_clock(left_out: tuple[str, ...]) -> None:
    code = (
        "import os, signal, time\nprint('begun', flush=True)\n"
        "for p in (os.getppid(), os.getpid()):\n"
        "    try: os.kill(p, signal.SIGSTOP)\n"
        "    except OSError: pass\n"
        "time.sleep(60)"
    )
    assert run(code, left_out, timeout_s=1).stopped == "time"


def test_memory_is_limited(left_out: tuple[str, ...]) -> None:
    code = "x = bytearray(200 << 20)"
    result = run(code, left_out, memory_bytes=100 << 20)
    assert not result.ok
    assert "MemoryError" in result.stderr
    assert run(code, left_out).ok


def test_processes_together_may_not_take_more() -> None:
    code = "import os, time\nos.fork(); os.fork()\nx = b'x' * (60 << 20)\ntime.sleep(60)"
    result = run_python(code, memory_bytes=160 << 20, timeout_s=30)
    assert (result.ok, result.stopped) == (False, "memory")


def test_files_live_in_the_work_folder_and_vanish(left_out: tuple[str, ...]) -> None:
    code = (
        "import os, tempfile\n"
        "open('a', 'w').write('x'); os.mkdir('b'); os.rename('a', 'b/a')\n"
        "with tempfile.NamedTemporaryFile('w') as file: file.write('y')\n"
        "open(os.devnull, 'w').write('z')\n"
        "print(os.getcwd(), sorted(os.listdir('.')), os.listdir('b'))"
    )
    result = run(code, left_out)
    assert result.stderr == ""
    folder, listing = result.stdout.split(" ", 1)
    assert listing == "['b', 'program.py'] ['a']\n"
    assert folder == "/tmp" or not Path(folder).exists()


def test_what_a_program_sees() -> None:
    code = (
        "import glob, json, os, sys\n"
        "print(json.dumps([sorted(os.environ), os.getuid(), os.getgroups(), sorted(set(glob.glob('/dev/*'))),\n"
        "    os.path.exists('/etc/passwd'), [p for p in os.listdir('/proc') if not p.isdigit()], os.uname().nodename]))"
    )
    environment, user, groups, devices, accounts, proc, name = json.loads(run_python(code).stdout)
    assert environment == ["HOME", "LC_CTYPE", "TMPDIR"]
    assert (user, groups) == (1000, [] if os.geteuid() == 0 else groups)
    assert devices == ["/dev/null", "/dev/shm", "/dev/urandom"]
    assert not accounts
    assert sorted(proc) == ["self", "thread-self"]
    assert name == "sandbox"


def test_no_variable_of_ours_is_passed_on(monkeypatch: pytest.MonkeyPatch, left_out: tuple[str, ...]) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    shown = run("import os, sys; print(dict(os.environ), sys.path)", left_out).stdout
    assert "secret" not in shown
    assert str(Path.cwd()) not in shown
    assert not run("import numpy", left_out).ok


def test_much_output_is_cut_and_no_error(left_out: tuple[str, ...]) -> None:
    result = run("for _ in range(2000): print('é' * 1000)\nprint('end')", left_out)
    assert result.ok
    assert len(result.stdout.encode()) == MAX_OUTPUT_BYTES
    assert result.stdout.startswith("é" * 1000 + "\n")


def test_a_program_may_be_longer_than_a_pipe_holds(left_out: tuple[str, ...]) -> None:
    assert run(f"print(len({'x' * 10**6!r}))", left_out).stdout == "1000000\n"


def test_a_timeout_must_be_positive() -> None:
    with pytest.raises(ValueError, match="timeout_s must be positive"):
        run_python("", timeout_s=0)


@pytest.mark.parametrize("name", ["user namespace", "read-only files", "limit: processes", "filter: keys"])
def test_less_than_the_whole_isolation_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        EnvironmentFault, match=rf"cannot be isolated here: no {name} \(left out\), .*--unsafe-sandbox"
    ):
        run_python(f"open({str(tmp_path / 'ran')!r}, 'w')", without=[name])
    assert not (tmp_path / "ran").exists()


NO_NAMESPACES = [
    "unshare",
    "--user",
    "--map-root-user",
    "sh",
    "-c",
    'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"',
    "sh",
]


@pytest.mark.parametrize("unsafe", [False, True])
def test_a_machine_without_namespaces(unsafe: bool) -> None:
    code = (
        "from nanochat.sandbox.python import run_python\n"
        f"result = run_python('print(6 * 7)', unsafe={unsafe})\n"
        "print(result.stdout, result.isolation.explain())"
    )
    ended = subprocess.run([*NO_NAMESPACES, sys.executable, "-c", code], capture_output=True, text=True)
    if unsafe:
        assert ended.stdout.startswith("42\n no user namespace (")
    else:
        assert "EnvironmentFault: programs cannot be isolated here: no user namespace (" in ended.stderr


def test_what_is_missing_is_explained() -> None:
    assert WHOLE.explain() == "complete"
    assert [restriction.name for restriction in WHOLE.restrictions] == list(NEEDS)
    partial = Isolation.lacking({"own root": "no space", "read-only files": "needs own root"})
    assert not partial.is_whole
    assert partial.explain() == f"no own root (no space), 2 of {len(NEEDS)} restrictions missing"


def test_a_machine_of_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = "import os; name = os.uname(); os.uname = lambda: type(name)([*name[:4], 'abacus']); "
    monkeypatch.setattr(exchange, "_START", foreign + exchange._START)
    with pytest.raises(EnvironmentFault, match=r"cannot be isolated here: no own root \(.* abacus"):
        run_python("")
