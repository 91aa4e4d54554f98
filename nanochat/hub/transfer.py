"""Download one URL into one file: resumed, retried with growing pauses, checked, then renamed into place.

huggingface_hub's downloader keeps no partial file between calls and compares no hash, so this module transfers
the bytes. Names, addresses, tokens and the HTTP session come from huggingface_hub (see `listing.py`).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanochat.atomic import sha256_of, sync_directory, write_fault
from nanochat.console import warn
from nanochat.errors import EnvironmentFault
from nanochat.hub.retry import IncompleteError, RetryPolicy, retrying
from nanochat.hub.threads import Cancellation


@dataclass(frozen=True)
class DownloadSource:
    """Where a file comes from and what its server states about it."""

    name: str  # for people
    url: str
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    size: int | None = None
    sha256: str | None = None
    version: str | None = None  # an ETag, which changes with the content; used if no sha256 is known

    @property
    def has_version(self) -> bool:
        """Whether a later run can tell that a partial file belongs to the content served then."""
        return bool(self.sha256 or self.version)

    def part_of(self, destination: Path) -> Path:
        """The partial file beside `destination`, named by the version that was asked for."""
        version = hashlib.sha256((self.sha256 or self.version or "").encode()).hexdigest()[:8]
        return destination.with_name(f"{destination.name}.{version}.part")


class Rejected(EnvironmentFault):
    """Every copy of this file was bad; other files of the server may be fine."""


def download(
    source: DownloadSource,
    destination: Path,
    *,
    policy: RetryPolicy,
    check: Callable[[Path], None] | None = None,
    on_bytes: Callable[[int], None] = lambda count: None,
    cancelled: Cancellation | None = None,
) -> Path:
    """Download `source` to `destination`, which appears only once it is complete, checked and synced.

    `check` raises for a bad file. `on_bytes` receives every change in the number of bytes held. The caller must
    keep other processes out (`batch.py` holds a lock). Raises Rejected if every copy was bad, Refused or
    EnvironmentFault as `retrying` does, CancelledError once `cancelled` is set; after that no file is changed,
    since another process may hold the lock.
    """
    part, cancelled = source.part_of(destination), cancelled or Cancellation()
    try:
        with cancelled.unless_set():
            destination.parent.mkdir(parents=True, exist_ok=True)
            for leftover in destination.parent.glob(f"{destination.name}.*.part"):
                if leftover != part or not source.has_version:
                    leftover.unlink()
        for copy in range(1, policy.bad_copies + 1):
            _receive(source, part, policy, on_bytes, cancelled)
            fault = _fault(part, source.sha256, check)
            if fault is None:
                _publish(part, destination, cancelled)
                return destination
            _discard(part, on_bytes, cancelled)
            warn(f"{source.name}: {fault}; discarded (copy {copy} of at most {policy.bad_copies})")
    except OSError as error:
        raise write_fault(part, error) from error
    raise Rejected(f"{source.name}: {fault}, in each of {policy.bad_copies} copies from {source.url}")


def _held(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _receive(
    source: DownloadSource,
    part: Path,
    policy: RetryPolicy,
    on_bytes: Callable[[int], None],
    cancelled: Cancellation,
) -> None:
    """Complete `part`, over as many connections as needed."""
    furthest = _held(part)

    def progressed() -> bool:
        nonlocal furthest
        before, furthest = furthest, max(furthest, _held(part))
        return furthest > before

    if furthest != source.size or not part.exists():
        retrying(
            lambda: _stream(source, part, policy, on_bytes, cancelled),
            source.name,
            policy,
            cancelled=cancelled,
            progressed=progressed,
        )


def _stream(
    source: DownloadSource,
    part: Path,
    policy: RetryPolicy,
    on_bytes: Callable[[int], None],
    cancelled: Cancellation,
) -> None:
    """One connection: append the missing bytes to `part`. Raises IncompleteError if it is still incomplete."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import hf_raise_for_status

    held = _held(part)
    headers = {**source.headers, "Accept-Encoding": "identity"}  # sizes and ranges count uncompressed bytes
    if held:
        headers["Range"] = f"bytes={held}-"
    with get_session().stream(
        "GET", source.url, headers=headers, timeout=policy.timeout, follow_redirects=True
    ) as response:
        if response.status_code == 416:  # the partial file is no prefix: the next attempt starts from zero
            _discard(part, on_bytes, cancelled)
        hf_raise_for_status(response)
        start = _start_of(response)
        if start not in (0, held):
            raise IncompleteError(f"asked for bytes from {held}, received bytes from {start}")
        if start < held:
            _discard(part, on_bytes, cancelled)
        with cancelled.unless_set():
            file = open(part, "ab")  # noqa: SIM115 - closed by the next line
        with file:
            for block in response.iter_bytes():
                with cancelled.unless_set():
                    file.write(block)
                    file.flush()  # so that a killed process keeps what it received
                on_bytes(len(block))
                if source.size is not None and file.tell() > source.size:
                    break  # a server that never ends must not fill the disk
    held = _held(part)
    if source.size is not None and held != source.size:
        if held > source.size:
            _discard(part, on_bytes, cancelled)
        raise IncompleteError(f"the answer ended at {held:,} of {source.size:,} bytes")


def _start_of(response: Any) -> int:
    """The file offset at which the answer begins; 0 if the server ignored the range."""
    if response.status_code != 206:
        return 0
    stated = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(stated[1]) if stated else -1


def _discard(part: Path, on_bytes: Callable[[int], None], cancelled: Cancellation) -> None:
    held = _held(part)
    with cancelled.unless_set():
        part.unlink(missing_ok=True)
    on_bytes(-held)


def _fault(path: Path, sha256: str | None, check: Callable[[Path], None] | None) -> str | None:
    """Why a complete file is bad, or None if it is good."""
    if sha256 is not None and sha256_of(path) != sha256:
        return "its sha256 differs from what the server states"
    if check is not None:
        try:
            check(path)
        except Exception as error:  # whatever the reader of that format raises
            return f"it cannot be read ({' '.join(str(error).split())})"
    return None


def _publish(part: Path, destination: Path, cancelled: Cancellation) -> None:
    with open(part, "rb") as file:
        os.fsync(file.fileno())
    with cancelled.unless_set():
        os.replace(part, destination)
    sync_directory(destination.parent)
