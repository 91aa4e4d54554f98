"""Starts a sandbox's processes, exchanges bytes with them, and ends them on time."""

import os
import selectors
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from nanochat.config import parse_json
from nanochat.errors import EnvironmentFault

MAX_OUTPUT_BYTES = 64 << 10  # kept per stream; the rest is read and dropped
_START = "import sys; sys.path.insert(0, {!r}); from nanochat.sandbox.jail import main; main()"
_PACKAGE_FOLDER = str(Path(__file__).resolve().parents[2])
_START_PATIENCE_S = 60.0  # for interpreters and namespaces, on a busy machine
_END_PATIENCE_S = 5.0
_CHUNK = 1 << 16


@dataclass(frozen=True)
class JailOutput:
    """A jail's reports (see jail.py), the program's output, and whether it timed out."""

    reports: dict[str, Any]
    stdout: bytes
    stderr: bytes
    out_of_time: bool


def run_jail(message: bytes, timeout_s: float) -> JailOutput:
    """Start a jail, write `message` to it, and read its output until it ends or is ended.

    The program has `timeout_s` seconds from its start. On return no process of the jail is alive if it had a pid
    namespace; otherwise processes that left its group may be.
    """
    no_cache = ["-B"] if sys.dont_write_bytecode else []
    reports, jail_end = os.pipe()
    with open(reports, "rb", buffering=0) as report_stream:
        try:
            jail = subprocess.Popen(
                [sys.executable, "-I", "-S", *no_cache, "-c", _START.format(_PACKAGE_FOLDER), str(jail_end)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env={},
                pass_fds=[jail_end],
                start_new_session=True,
            )
        except OSError as error:
            raise EnvironmentFault(f"cannot start a Python process for the sandbox: {error}") from error
        finally:
            os.close(jail_end)
        with jail:
            pump = _Pump(jail, report_stream, message)
            try:
                ended = pump.run(timeout_s)
            finally:
                _end(jail)
            stdout, stderr, lines = pump.finish()
    parsed = {key: value for line in lines.splitlines() for key, value in parse_json(line).items()}
    return JailOutput(parsed, stdout, stderr, not ended)


def _end(jail: subprocess.Popen[bytes]) -> None:
    jail.terminate()  # the warden kills the supervisor and so the namespace, and waits for its end
    with suppress(subprocess.TimeoutExpired):
        jail.wait(_END_PATIENCE_S)
    with suppress(ProcessLookupError):
        os.killpg(jail.pid, signal.SIGKILL)  # in case there is no namespace
    jail.wait()


class _Pump:
    """Moves bytes between a jail and its caller; keeps the start of the jail's output and drops the rest."""

    def __init__(self, jail: subprocess.Popen[bytes], reports: IO[bytes], message: bytes) -> None:
        assert jail.stdin
        assert jail.stdout
        assert jail.stderr
        self._input, self._pending = jail.stdin, memoryview(message)
        self._reports = reports
        self._kept = {stream: bytearray() for stream in (jail.stdout, jail.stderr, reports)}
        self._open: set[IO[bytes]] = {self._input, *self._kept}
        self._selector = selectors.DefaultSelector()
        os.set_blocking(self._input.fileno(), False)
        self._selector.register(self._input, selectors.EVENT_WRITE)
        for stream in self._kept:
            self._selector.register(stream, selectors.EVENT_READ)

    def run(self, timeout_s: float) -> bool:
        """True if the jail ended by itself, false if the program timed out."""
        deadline = time.monotonic() + _START_PATIENCE_S
        started = False
        while self._reports in self._open:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._move(left)
            if not started and b"\n" in self._kept[self._reports]:
                started, deadline = True, time.monotonic() + timeout_s
        return True

    def finish(self) -> tuple[bytes, ...]:
        """What was kept of stdout, stderr and reports, including what is left in the pipes."""
        if self._input in self._open:
            self._close(self._input)
        until = time.monotonic() + _END_PATIENCE_S  # an escaped daemon may write for ever
        while self._open and time.monotonic() < until and self._move(0):
            pass
        self._selector.close()
        return tuple(bytes(kept) for kept in self._kept.values())

    def _move(self, patience_s: float) -> bool:
        """Move the bytes that are ready; false if none were."""
        ready = self._selector.select(patience_s)
        for key, _ in ready:
            if key.fileobj is self._input:
                self._write()
            else:
                self._read(key.fileobj)  # type: ignore[arg-type]
        return bool(ready)

    def _write(self) -> None:
        try:
            self._pending = self._pending[os.write(self._input.fileno(), self._pending[:_CHUNK]) :]
        except BrokenPipeError:
            self._pending = self._pending[:0]
        if not self._pending:
            self._close(self._input)

    def _read(self, stream: IO[bytes]) -> None:
        kept = self._kept[stream]
        if chunk := os.read(stream.fileno(), _CHUNK):
            kept += chunk[: MAX_OUTPUT_BYTES - len(kept)]
        else:
            self._close(stream)

    def _close(self, stream: IO[bytes]) -> None:
        self._selector.unregister(stream)
        self._open.discard(stream)
        stream.close()
