"""Atomic file writes that survive crashes; checksums; locks."""

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

_NO_DIRECTORY_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOTSUP)
"""What file systems answer that cannot sync a folder: some shared and user-space ones."""


def write_fault(path: Path, error: OSError) -> EnvironmentFault:
    """An error of one line: why `path` cannot be written, and what to do."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    advice = _ADVICE.get(error.errno or 0)
    return EnvironmentFault(f"cannot write {path}: {reason}" + (f"; {advice}" if advice else ""))


def stage(path: Path, write: Callable[[BinaryIO], object]) -> Path:
    """Write a synced temporary file beside `path` and return its path; the caller renames it over `path`.

    Creates missing folders. On any error the temporary file is removed; an OSError becomes an EnvironmentFault.
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
    """Replace the content of `path` by what `write` writes; after an error it keeps its old content.

    Raises EnvironmentFault if the file cannot be written.
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
    """`write_atomic` for text: UTF-8, line endings unchanged."""
    write_atomic(path, lambda file: file.write(text.encode("utf-8")))


def sync_directory(directory: Path) -> None:
    """Make renames and removals in `directory` survive a power failure, where the file system can (POSIX only)."""
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise
    finally:
        os.close(descriptor)


def remove_temporaries(directory: Path, prefix: str = "") -> None:
    """Remove temporary files that killed writers left of files named `prefix`…. Only safe with a single writer."""
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
    """Hold the lock file `path`. If another process holds it, print `message` and wait.

    Raises EnvironmentFault if the lock file cannot be created.
    """
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
