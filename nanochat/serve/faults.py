"""Errors as clients of OpenAI's API expect them: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

_TYPES = {429: "rate_limit_error"}


class ApiFault(Exception):  # noqa: N818 - also what a healthy server answers: busy, stopping
    """A request that gets an error instead of an answer.

    Args:
        status: HTTP status.
        message: one line: what is wrong and what to do.
        code: OpenAI's code for it, for programs.
        param: the field of the request that is at fault.
        headers: further headers of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The JSON of the response."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {
            "error": {"message": self.message, "type": kind, "param": self.param, "code": self.code},
        }

    def response(self) -> Response:
        """The whole response."""
        return json_response(self.body(), self.status, self.headers)


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response. Everything beyond ASCII is escaped: text from clients may hold lone surrogates."""
    return Response(json.dumps(content), status, headers, media_type="application/json")


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiFault:
    """A mistake in the request."""
    return ApiFault(400, message, code=code, param=param)


def busy(message: str) -> ApiFault:
    """Too much to do; the client may try again."""
    return ApiFault(429, message, code="rate_limit_exceeded", headers={"Retry-After": "1"})


def stopping() -> ApiFault:
    """The server is about to end."""
    return ApiFault(
        503, "the server is stopping: try again later", code="stopping", headers={"Retry-After": "5"}
    )


def crashed() -> ApiFault:
    """A fault of ours, whose details are in the log."""
    return ApiFault(500, "the server failed on this request; its log has the details", code="internal_error")
