"""What a request may cost, and reading its body within that."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect, Request

from nanochat.config import parse_json
from nanochat.serve.faults import ApiFault, invalid


@dataclass(frozen=True)
class Limits:
    """What one request may cost."""

    body_bytes: int
    messages: int
    max_tokens: int | None
    """Of an answer; None: as many as the context holds."""
    seconds: float
    """For an answer, once the request has arrived and the model is loaded."""
    body_seconds: float = 30.0
    """For the body to arrive."""
    samples: int = 16
    """Answers to one request: its prompts times `n`."""
    stops: int = 16
    stop_characters: int = 1000
    """Of all stop strings together."""
    biases: int = 1024
    """Entries of `logit_bias`."""
    buffered_events: int = 1024
    """Tokens of each answer that a reader may be behind, beyond what the connection holds."""
    score_tokens: int = 8192
    """Of a text or messages whose tokens are scored or listed."""


async def read_json(request: Request, limits: Limits) -> dict[str, Any]:
    """The body: a JSON object. Raises ApiFault for anything else, and for a body that is too large or too slow."""
    try:
        async with asyncio.timeout(limits.body_seconds):
            raw = await _read(request, limits.body_bytes)
    except TimeoutError:
        raise ApiFault(
            408, f"the body did not arrive within {limits.body_seconds:g} s", code="timeout"
        ) from None
    except ClientDisconnect:  # nobody reads the answer
        raise invalid("the connection closed before the body was complete") from None
    request.state.raw_body = raw
    try:
        body = parse_json(raw)
    except ValueError as error:
        raise invalid(f"the body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(body, dict):
        raise invalid(f"the body must be a JSON object, not {type(body).__name__}", code="invalid_json")
    return body


async def _read(request: Request, most: int) -> bytes:
    declared = request.headers.get("content-length", "0")
    raw = bytearray()
    if not declared.isdecimal() or int(declared) <= most:
        async for chunk in request.stream():
            raw += chunk
            if len(raw) > most:
                break
        else:
            return bytes(raw)
    raise ApiFault(
        413,
        f"the body is larger than {most:,} bytes",
        code="request_too_large",
        headers={"Connection": "close"},
    )
