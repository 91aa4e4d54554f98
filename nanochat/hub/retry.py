"""Retrying HTTP requests: which failures are transient, how long to wait, when to give up."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from nanochat.console import warn
from nanochat.errors import EnvironmentFault
from nanochat.hub.threads import Cancellation, CancelledError

T = TypeVar("T")
DENIED = frozenset({401, 403})  # a missing repository or missing permission
RUN_AGAIN = "run the same command again to resume"
_TRANSIENT = frozenset({408, 416, 425, 429})  # transient 4xx statuses; every 5xx is transient too


@dataclass(frozen=True)
class RetryPolicy:
    """Retry limits. New bytes reset the failure count."""

    attempts: int = 10  # consecutive failures without a new byte before giving up
    bad_copies: int = 3  # complete copies that fail their check before giving up
    first_pause_s: float = 1.0  # doubled after every failure
    longest_pause_s: float = 60.0
    longest_obeyed_s: float = 600.0  # upper limit for a server's Retry-After
    connect_timeout_s: float = 10.0
    stall_timeout_s: float = 30.0  # a connection without a byte for this long is broken

    @property
    def timeout(self) -> tuple[float, float, float, float]:
        """The HTTP client's timeouts in seconds: connect, read, write, pool."""
        return (self.connect_timeout_s, self.stall_timeout_s, self.stall_timeout_s, self.stall_timeout_s)

    def pause(self, failures: int, asked_s: float | None = None) -> float:
        """Seconds to wait after `failures` consecutive failures, at least `asked_s` (what the server asked for).

        Jitter of up to a half keeps many clients from retrying at the same moment.
        """
        grown = min(self.first_pause_s * 2 ** (failures - 1), self.longest_pause_s)
        return max(grown * random.uniform(0.5, 1.0), min(asked_s or 0.0, self.longest_obeyed_s))


class Refused(EnvironmentFault):
    """The server refused with a final HTTP `status`; retrying is useless."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


class IncompleteError(Exception):
    """An attempt ended early and may succeed if it is repeated, like a transfer before the file was complete."""


def retrying(
    attempt: Callable[[], T],
    what: str,
    policy: RetryPolicy,
    *,
    cancelled: Cancellation | None = None,
    progressed: Callable[[], bool] = lambda: False,
    remedy: str = RUN_AGAIN,
) -> T:
    """The result of `attempt`, retried after network errors, 429 and 5xx answers, with growing pauses.

    `progressed` tells whether the failed attempt got further than all before it, which resets the failure count.
    `remedy` says what to do when all attempts have failed.
    Raises Refused for a final answer, EnvironmentFault after `policy.attempts` failures, CancelledError once
    `cancelled` is set.
    """
    # The base error of the HTTP library that this version of huggingface_hub uses.
    from huggingface_hub.errors import HTTPError

    cancelled, failures = cancelled or Cancellation(), 0
    while not cancelled.is_set():
        asked_s = None
        try:
            return attempt()
        except IncompleteError as error:
            reason = str(error)
        except HTTPError as error:
            response = getattr(error, "response", None)
            reason = _reason(error, response)
            if response is not None:
                _raise_if_final(response, f"{what}: {reason}")
                asked_s = _asked_pause(response)
        failures = 1 if progressed() else failures + 1
        if failures >= policy.attempts:
            raise EnvironmentFault(f"{what}: {reason}, {failures} times in a row; {remedy}")
        pause = policy.pause(failures, asked_s)
        if (failures > 1 or asked_s) and not cancelled.is_set():
            warn(f"{what}: {reason}; retrying in {pause:.0f} s ({failures}/{policy.attempts})")
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
            f"{line}: check the name; a gated dataset needs its terms accepted and HF_TOKEN set", status
        )
    if 400 <= status < 500 and status not in _TRANSIENT:
        raise Refused(f"{line} from {response.url}", status)


def _asked_pause(response: Any) -> float | None:
    """Seconds to wait by the Retry-After header (a number or a date) or the hub's RateLimit header."""
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
