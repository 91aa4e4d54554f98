"""Shards of a hub dataset that are still being downloaded, by this process or another one."""

from __future__ import annotations

import time
from contextlib import suppress
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

from nanochat.console import say
from nanochat.hub.batch import LOCK_NAME
from nanochat.text.shards import shard_name

_POLL_S = 1.0
_PATIENCE_S = 30.0  # without a new byte, before checking whether a download is running


def unbroken(folder: Path) -> int:
    """The number of shards before the first gap; whatever arrives later, in any order, these remain the first ones."""
    return next(index for index in count() if not (folder / shard_name(index)).exists())


def wait_for(name: str, folder: Path, wanted: list[Path]) -> None:
    """Wait until all of `wanted` are here; ValueError if some are missing and no download is running."""
    held, since, said = -1, time.monotonic(), -1
    while missing := [path for path in wanted if not path.exists()]:
        arrived = _bytes_in(folder)
        if arrived != held:
            held, since = arrived, time.monotonic()
        if time.monotonic() - since > _PATIENCE_S and not _is_locked(folder / LOCK_NAME):
            raise ValueError(
                f"{len(missing)} of {len(wanted)} shards of {name} are missing and no download is running: "
                f"fetch them with `nanochat data download --dataset {name} -n {len(wanted) - 1}`"
            )
        if len(missing) != said:
            said = len(missing)
            say(f"waiting for {name}: {len(wanted) - said} of {len(wanted)} shards downloaded")
        time.sleep(_POLL_S)


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.glob("*"):
        with suppress(FileNotFoundError):  # a partial file that was just completed and renamed
            total += path.stat().st_size
    return total


def _is_locked(path: Path) -> bool:
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False
