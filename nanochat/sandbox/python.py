"""Runs an untrusted Python program: bounded, without network, leaving nothing behind."""

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from nanochat.errors import EnvironmentFault

MAX_OUTPUT_BYTES = 64 << 10  # of stdout and of stderr each; the rest is dropped
_JAIL = Path(__file__).with_name("jail.py")
_GRACE_S = 10.0  # for the interpreters to start and exit, on top of the program's timeout


@dataclass(frozen=True)
class Execution:
    """How a program ended. `ok`: with exit status 0 before the timeout. Output is cut at `MAX_OUTPUT_BYTES`."""

    ok: bool
    stdout: str
    stderr: str
    timed_out: bool


def run_python(
    code: str,
    *,
    stdin: str = "",
    timeout_s: float = 5,
    memory_bytes: int = 512 << 20,
    namespaces: bool = True,
) -> Execution:
    """Run `code` as a main program in a separate process and wait for it.

    The program has the standard library, an empty work folder that is deleted afterwards, and none of our
    environment variables. `nanochat.sandbox.jail` documents the restrictions and their limits;
    `namespaces=False` skips those that only some kernels allow. Nothing the program does raises here.

    Args:
        timeout_s: wall-clock seconds until the program and its children are killed.
        memory_bytes: address space of each of its processes; the interpreter itself takes about 30 MB.

    Raises ValueError for a timeout that is not positive, EnvironmentFault if no process can be started.
    """
    if timeout_s <= 0:
        raise ValueError(f"timeout_s must be positive, not {timeout_s}")
    with tempfile.TemporaryDirectory(prefix="nanochat-", ignore_cleanup_errors=True) as folder:
        base = Path(folder).resolve()
        (base / "work").mkdir()
        (base / "main.py").write_bytes(code.encode("utf-8", "replace"))
        (base / "stdin").write_bytes(stdin.encode("utf-8", "replace"))
        limits = (str(timeout_s), str(memory_bytes), "namespaces" if namespaces else "limits")
        with (
            open(base / "stdin", "rb") as source,
            open(base / "stdout", "w+b") as out,
            open(base / "stderr", "w+b") as err,
        ):
            status = _run_jail(base, limits, timeout_s + _GRACE_S, (source, out, err))
            return Execution(
                ok=status == 0,
                stdout=_head(out),
                stderr=_head(err),
                timed_out=status == -signal.SIGALRM,
            )


def _run_jail(
    base: Path, limits: tuple[str, ...], patience_s: float, streams: tuple[BinaryIO, BinaryIO, BinaryIO]
) -> int:
    """Run `base/main.py` under jail.py. Returns its exit status, -SIGALRM after the timeout."""
    work = str(base / "work")
    try:
        jail = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_JAIL), str(base / "main.py"), *limits],
            stdin=streams[0],
            stdout=streams[1],
            stderr=streams[2],
            cwd=work,
            env={"HOME": work, "TMPDIR": work},
            start_new_session=True,
        )
    except OSError as error:
        raise EnvironmentFault(f"cannot start a Python process for the sandbox: {error}") from error
    try:
        return jail.wait(patience_s)
    except subprocess.TimeoutExpired:  # the supervisor itself hangs
        return -signal.SIGALRM
    finally:
        with suppress(ProcessLookupError):
            os.killpg(jail.pid, signal.SIGKILL)
        jail.wait()


def _head(file: BinaryIO) -> str:
    file.seek(0)
    return file.read(MAX_OUTPUT_BYTES).decode("utf-8", "replace")
