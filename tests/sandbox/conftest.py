"""A host with secrets: what a hostile program would like to read, reach, change or leave behind."""

import ctypes
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

import nanochat.sandbox
from nanochat.sandbox import exchange

SECRET = "the-secret-of-the-host"
QUEUE = f"/nanochat-test-{os.getpid()}"


def load_programs(group: str) -> dict[str, str]:
    """The programs of programs/`group`.txt by name, given after === above each."""
    text = (Path(__file__).parent / "programs" / f"{group}.txt").read_text()
    sections = (section.partition("\n") for section in text.removeprefix("=== ").split("\n=== "))
    return {name: code.strip() + "\n" for name, _, code in sections}


@dataclass(frozen=True)
class Host:
    """Everyone may read and write `folder` and its files; the sockets listen."""

    folder: Path
    tcp_port: int
    abstract_name: str

    def fill(self, program: str) -> str:
        """The program with the places of this host: FOLDER, TCP_PORT, ABSTRACT, QUEUE, OWN_PID, HOST_NAME."""
        for name, value in (
            ("FOLDER", str(self.folder)),
            ("TCP_PORT", str(self.tcp_port)),
            ("ABSTRACT", self.abstract_name),
            ("QUEUE", QUEUE),
            ("OWN_PID", str(os.getpid())),
            ("HOST_NAME", os.uname().nodename),
        ):
            program = program.replace(name, value)
        return program

    def state(self) -> dict[str, tuple[bytes, int]]:
        """Every regular file in the folder, with its mode."""
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        return {str(path): (path.read_bytes(), path.stat().st_mode) for path in files}

    def survivors(self) -> list[psutil.Process]:
        """Other processes with the folder in their command line."""
        return [process for process in psutil.process_iter() if self._is_survivor(process)]

    def _is_survivor(self, process: psutil.Process) -> bool:
        try:
            named = any(str(self.folder) in part for part in process.cmdline())
            return named and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """Secrets in the environment, a file, a FIFO, a message queue and sockets, open to every user of the machine."""
    folder = Path(tempfile.mkdtemp(prefix="host-"))
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("HOME", str(folder))
    before = os.umask(0)
    folder.chmod(0o777)
    (folder / "secret").write_text(SECRET)
    os.mkfifo(folder / "fifo", 0o666)
    fifo = os.open(folder / "fifo", os.O_RDWR | os.O_NONBLOCK)
    os.write(fifo, SECRET.encode())
    tcp = socket.create_server(("127.0.0.1", 0))
    local, abstract = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    local.bind(str(folder / "socket"))
    abstract.bind(f"\0{folder.name}")
    for server in (local, abstract):
        server.listen()
    libc = ctypes.CDLL(None, use_errno=True)
    queue = libc.mq_open(QUEUE.encode(), os.O_CREAT | os.O_RDWR, 0o666, None)
    assert queue >= 0, os.strerror(ctypes.get_errno())
    os.umask(before)
    yield Host(folder, tcp.getsockname()[1], folder.name)
    libc.mq_unlink(QUEUE.encode())
    for descriptor in (fifo, queue):
        os.close(descriptor)
    for server in (tcp, local, abstract):
        server.close()
    shutil.rmtree(folder)


@pytest.fixture
def writable_package(host: Host, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The sandbox started from a copy of its package that every user may write to."""
    source = Path(nanochat.sandbox.__file__).parent
    copy = host.folder / "nanochat" / "sandbox"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("__init__.py", "errors.py"):
        shutil.copy(source.parent / name, copy.parent)
    for path in copy.parent.rglob("*"):
        path.chmod(0o777)
    monkeypatch.setattr(exchange, "_PACKAGE_FOLDER", str(host.folder))
    return copy
