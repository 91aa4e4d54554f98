"""One URL into one file: resumed where it broke off, retried with growing pauses, checked, then put in place.

huggingface_hub's own downloader keeps no partial file between two calls and compares no hash, so the bytes
travel here; names, addresses, tokens and the HTTP session are its own (see `listing.py`).
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar

from nanochat.atomic import sha256_of, sync_directory, write_fault
from nanochat.console import warn
from nanochat.errors import EnvironmentFault
from nanochat.hub.threads import Cancellation, CancelledError

T = TypeVar("T")
DENIED = frozenset({401, 403})  # the answers that name a missing repository or a missing right
_TRANSIENT = frozenset({408, 416, 425, 429})  # of the 4xx answers; every 5xx is transient too


@dataclass(frozen=True)
class RetryPolicy:
    """How long to insist. The count of failures starts anew whenever a file has grown."""

    attempts: int = 10  # failures in a row, without one new byte, before giving up
    bad_copies: int = 3  # complete copies with a wrong hash before giving up
    first_pause_s: float = 1.0  # doubled after every failure
    longest_pause_s: float = 60.0
    longest_obeyed_s: float = 600.0  # a server's Retry-After beyond this is cut to it
    connect_timeout_s: float = 10.0
    stall_timeout_s: float = 30.0  # without a byte, the connection counts as broken

    @property
    def timeout(self) -> tuple[float, float, float, float]:
        """Seconds for connect, read, write and waiting for a free connection, as the HTTP client takes them."""
        return (self.connect_timeout_s, self.stall_timeout_s, self.stall_timeout_s, self.stall_timeout_s)

    def pause(self, failures: int, asked_s: float | None = None) -> float:
        """Seconds before the next attempt after `failures` in a row; never less than the server asked for.

        A random part of up to a half keeps many clients from coming back at the same moment.
        """
        grown = min(self.first_pause_s * 2 ** (failures - 1), self.longest_pause_s)
        return max(grown * random.uniform(0.5, 1.0), min(asked_s or 0.0, self.longest_obeyed_s))


@dataclass(frozen=True)
class DownloadSource:
    """Where a file comes from and what its server says of it."""

    name: str  # for people
    url: str
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    size: int | None = None
    sha256: str | None = None
    version: str | None = None  # changes whenever the content does: an ETag, where no sha256 is known

    @property
    def has_version(self) -> bool:
        """Whether a later run can know that a partial file is the beginning of what is served then."""
        return bool(self.sha256 or self.version)

    def part_of(self, destination: Path) -> Path:
        """The partial file beside `destination`, named by version: bytes of two versions are never mixed."""
        version = hashlib.sha256((self.sha256 or self.version or "").encode()).hexdigest()[:8]
        return destination.with_name(f"{destination.name}.{version}.part")


class Refused(EnvironmentFault):
    """The server's answer was final (`status`); asking again is useless."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


class Rejected(EnvironmentFault):
    """This one file cannot be had whole; others of the same server still can."""


class _BrokenOffError(Exception):
    """The transfer ended before the file was complete."""


def retrying(
    attempt: Callable[[], T],
    what: str,
    policy: RetryPolicy,
    *,
    cancelled: Cancellation | None = None,
    progressed: Callable[[], bool] = lambda: False,
) -> T:
    """The result of `attempt`, called again after network errors, 429 and 5xx answers, with growing pauses.

    `progressed` tells whether the failed attempt got further than any before it, which forgives the failures
    so far. Raises Refused for a final answer, EnvironmentFault when the patience of `policy` is at its end,
    CancelledError once `cancelled` is set.
    """
    # The HTTP library's base error, under whichever name (httpx, httpx2) this huggingface_hub builds on.
    from huggingface_hub.errors import HTTPError

    cancelled, failures = cancelled or Cancellation(), 0
    while not cancelled.is_set():
        asked_s = None
        try:
            return attempt()
        except _BrokenOffError as error:
            reason = str(error)
        except HTTPError as error:
            response = getattr(error, "response", None)
            reason = _reason(error, response)
            if response is not None:
                _raise_if_final(response, f"{what}: {reason}")
                asked_s = _asked_pause(response)
        failures = 1 if progressed() else failures + 1
        if failures >= policy.attempts:
            raise EnvironmentFault(
                f"{what}: {reason}, {failures} times in a row; run the same command again to go on from here"
            )
        pause = policy.pause(failures, asked_s)
        if (failures > 1 or asked_s) and not cancelled.is_set():
            warn(f"{what}: {reason}; trying again in {pause:.0f} s ({failures}/{policy.attempts})")
        cancelled.wait(pause)
    raise CancelledError


def _reason(error: Exception, response: Any) -> str:
    if response is not None:
        return f"HTTP {response.status_code} {response.reason_phrase}".rstrip()
    return " ".join(str(error).split()) or type(error).__name__


def _raise_if_final(response: Any, line: str) -> None:
    status = response.status_code
    if status in DENIED:
        raise Refused(
            f"{line}: check the name; a closed dataset needs its terms accepted and HF_TOKEN", status
        )
    if 400 <= status < 500 and status not in _TRANSIENT:
        raise Refused(f"{line} from {response.url}", status)


def _asked_pause(response: Any) -> float | None:
    """Seconds that Retry-After (a number or a date) or the hub's RateLimit header asks us to wait."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdigit():
        return float(value)
    if value:
        try:
            return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
        except ValueError:
            return None
    window = re.search(r"\bt=(\d+)", response.headers.get("RateLimit", ""))
    return float(window[1]) if response.status_code == 429 and window else None


def download(
    source: DownloadSource,
    destination: Path,
    *,
    policy: RetryPolicy,
    check: Callable[[Path], None] | None = None,
    on_bytes: Callable[[int], None] = lambda count: None,
    cancelled: Cancellation | None = None,
) -> Path:
    """Fetch `source` into `destination`, which appears only whole, checked and synced to the disk.

    `check` raises where a complete file is not what it should be. `on_bytes` hears every change in the number
    of bytes held. The caller keeps other processes away (`batch.py` holds a lock). Raises Rejected when every
    copy was bad, Refused or EnvironmentFault as `retrying` does, CancelledError once `cancelled` is set: from
    then on nothing is changed, since another process may have taken its turn.
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
            warn(f"{source.name}: {fault}; thrown away (copy {copy} of at most {policy.bad_copies})")
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
    """Fill `part` to its full size, over as many connections as it takes."""
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
    """One connection: append to `part` what is missing of it. Raises _BrokenOffError unless it is then complete."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import hf_raise_for_status

    held = _held(part)
    headers = {**source.headers, "Accept-Encoding": "identity"}  # sizes and ranges count the plain bytes
    if held:
        headers["Range"] = f"bytes={held}-"
    with get_session().stream(
        "GET", source.url, headers=headers, timeout=policy.timeout, follow_redirects=True
    ) as response:
        if response.status_code == 416:  # nothing there to go on from: the next attempt begins anew
            _discard(part, on_bytes, cancelled)
        hf_raise_for_status(response)
        start = _start_of(response)
        if start not in (0, held):
            raise _BrokenOffError(f"asked for bytes from {held}, was sent bytes from {start}")
        if start < held:
            _discard(part, on_bytes, cancelled)
        with cancelled.unless_set():
            file = open(part, "ab")  # noqa: SIM115 - closed by the next line
        with file:
            for block in response.iter_bytes():
                with cancelled.unless_set():
                    file.write(block)
                    file.flush()  # so that a killed process leaves all that has come
                on_bytes(len(block))
                if source.size is not None and file.tell() > source.size:
                    break  # a server that never ends must not fill the disk
    held = _held(part)
    if source.size is not None and held != source.size:
        if held > source.size:
            _discard(part, on_bytes, cancelled)
        raise _BrokenOffError(f"the answer ended at {held:,} of {source.size:,} bytes")


def _start_of(response: Any) -> int:
    """The offset in the file at which this answer begins: 0 where the server ignored the range."""
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
    """Why a complete file must not be accepted, or None."""
    if sha256 is not None and sha256_of(path) != sha256:
        return "its sha256 is not the one that the server states"
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
