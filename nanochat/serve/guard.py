"""ASGI middleware around the app: who may ask, security headers, the log, and faults as JSON."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nanochat.serve.faults import ApiFault, crashed

_log = logging.getLogger("nanochat.serve")

_OPEN = ("/", "/lab", "/health", "/favicon.ico")
"""What needs no key, besides the page's files: a browser cannot send one for them."""
_OPEN_FOLDER = "/static/"

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "object-src 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_ADDED = [
    (name.lower().encode(), value.encode())
    for name, value in (SECURITY_HEADERS | {"Cache-Control": "no-store"}).items()
]
"""What each response gets unless it says otherwise, as ASGI has it."""


@dataclass(frozen=True)
class Access:
    """Who may ask."""

    api_key: str | None
    hosts: tuple[str, ...]
    """Names, besides localhost and plain addresses, under which this server is known; `*`: any."""
    origins: tuple[str, ...]
    """Other origins whose pages may ask; `*`: all."""
    log_requests: bool = False
    """Also log the bodies of requests."""


class Guard:
    """Checks every request before the app sees it, and completes every response.

    `count` receives the status of each response.
    """

    def __init__(self, app: ASGIApp, access: Access, count: Callable[[int], None]):
        self._app, self._access, self._count = app, access, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI app."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 0

        async def guarded_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {name for name, _ in message["headers"]}
                added = [header for header in _ADDED if header[0] not in given]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, receive, guarded_send)
        except ApiFault as fault:
            await fault.response()(scope, receive, guarded_send)
        except Exception:
            _log.exception("%s %s failed", scope["method"], _path(scope))
            if status:
                raise
            await crashed().response()(scope, receive, guarded_send)
        finally:
            self._count(status)
            self._report(scope, status, time.perf_counter() - began)

    def _check(self, scope: Scope) -> None:
        """Raise ApiFault for a request that the app must not see."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not _allowed_host(host, self._access.hosts):
            raise ApiFault(
                403,
                f"this server is not known as {host[:100]!r}: start it with --allow-host NAME to allow a name",
                code="host_not_allowed",
            )
        origin = headers.get("origin")
        if origin is not None and not self._allowed_origin(origin, host):
            raise ApiFault(
                403,
                f"pages of {origin[:100]!r} may not ask this server: start it with --cors-origin to allow them",
                code="origin_not_allowed",
            )
        path = scope["path"]
        if self._access.api_key is None or path in _OPEN or path.startswith(_OPEN_FOLDER):
            return
        if scope["method"] == "OPTIONS":  # a browser asks for permission without the key
            return
        scheme, _, key = headers.get("authorization", "").partition(" ")
        expected = self._access.api_key.encode()
        if scheme.lower() != "bearer" or not hmac.compare_digest(key.strip().encode("latin-1"), expected):
            raise ApiFault(
                401,
                "a valid API key is needed: Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _allowed_origin(self, origin: str, host: str) -> bool:
        """Whether a page of this origin may ask: this server's own, or one that was allowed."""
        same = _split(origin).netloc.lower() == host.lower() != ""
        return same or origin in self._access.origins or "*" in self._access.origins

    def _report(self, scope: Scope, status: int, seconds: float) -> None:
        _log.info("%s %s %s %.0f ms", scope["method"], _path(scope), status or "-", seconds * 1000)
        if self._access.log_requests:
            body = scope.get("state", {}).get("raw_body", b"")
            if body:
                _log.info("  %s", body.decode("utf-8", errors="replace").encode("unicode_escape").decode())


def _path(scope: Scope) -> str:
    """The path, safe for a terminal."""
    return scope["path"].encode("unicode_escape").decode()[:200]


def check_names(hosts: Sequence[str], origins: Sequence[str]) -> None:
    """Raise ValueError, naming the flag, for a host or an origin that no request can have."""
    for host in hosts:
        if host != "*" and _split(f"//{host}").hostname != host.lower():
            raise ValueError(f"--allow-host takes a name such as example.org, not {host}")
    for origin in origins:
        parts = _split(origin)
        if origin not in ("*", "null") and (not parts.netloc or f"{parts.scheme}://{parts.netloc}" != origin):
            raise ValueError(f"--cors-origin takes an origin such as https://example.org, not {origin}")


def _split(url: str) -> SplitResult:
    """The parts of an address; of a malformed one they are empty."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _allowed_host(host: str, names: tuple[str, ...]) -> bool:
    """Whether a Host header names this server.

    DNS rebinding (a page whose name is made to resolve to this machine) needs a name, so plain addresses and
    localhost are safe.
    """
    if "*" in names:
        return True
    name = _split(f"//{host}").hostname or ""
    if name == "localhost" or name.endswith(".localhost") or name in map(str.lower, names):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
