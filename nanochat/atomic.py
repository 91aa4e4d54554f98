"""Files that are either whole or not there, whatever kills the process; checksums; locks."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from nanochat.errors import EnvironmentFault

_BLOCK = 1 << 20
_ADVICE = {
    errno.ENOSPC: "free some space or choose another NANOCHAT_BASE_DIR",
    errno.EDQUOT: "free some of your quota or choose another NANOCHAT_BASE_DIR",
    errno.EFBIG: "the file system or a limit (ulimit -f) allows no file of this size",
    errno.EACCES: "check the permissions or choose another NANOCHAT_BASE_DIR",
    errno.EPERM: "check the permissions or choose another NANOCHAT_BASE_DIR",
    errno.EROFS: "the file system is read-only: choose another NANOCHAT_BASE_DIR",
    errno.ENOTDIR: "a file stands where a folder is needed",
    errno.EEXIST: "a file stands where a folder is needed",
}


def write_fault(path: Path, error: OSError) -> EnvironmentFault:
    """The one line that tells why `path` could not be written and what to do."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    advice = _ADVICE.get(error.errno or 0)
    return EnvironmentFault(f"cannot write {path}: {reason}" + (f"; {advice}" if advice else ""))


def stage(path: Path, write: Callable[[BinaryIO], object]) -> Path:
    """Write a synced temporary file beside `path` and return it, for the caller to rename over `path`.

    The folder is made if it is missing. On any error the temporary file is removed; an OSError becomes an
    EnvironmentFault.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise write_fault(path, error) from error
        raise
    return temporary


def write_atomic(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill `path`: afterwards it holds the whole new content, or after an error the old one.

    Raises EnvironmentFault (one line) where the disk refuses.
    """
    path = Path(path)
    temporary = stage(path, write)
    try:
        os.replace(temporary, path)
        sync_directory(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise write_fault(path, error) from error


def write_text_atomic(path: Path, text: str) -> None:
    """`write_atomic` of UTF-8 text, with line ends as they are."""
    write_atomic(path, lambda file: file.write(text.encode("utf-8")))


def sync_directory(directory: Path) -> None:
    """Make renames and removals in `directory` survive a power cut, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporaries(directory: Path, prefix: str = "") -> None:
    """Remove what killed writers left of files named `prefix`…; only for a folder that has one writer."""
    for leftover in directory.glob(f".{prefix}*.tmp"):
        leftover.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def file_lock(path: Path, *, message: str) -> Iterator[None]:
    """Hold the lock file `path` against other processes; while one of them has it, say `message` and wait."""
    from filelock import FileLock, Timeout

    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_fault(path, error) from error
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        from nanochat.console import say

        say(message)
        lock.acquire()
    except OSError as error:
        raise write_fault(path, error) from error
    try:
        yield
    finally:
        lock.release()
