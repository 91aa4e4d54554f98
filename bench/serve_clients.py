"""Clients for bench/serve.py: one streaming request over a raw socket, so that many cost little."""

import asyncio
import contextlib
import json
import time
from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Answering:
    """One request: where to, what, and how it is read."""

    port: int
    question: str
    max_tokens: int
    seed: int
    banned: tuple[int, ...] = ()
    leave_after: int | None = None
    """Close the connection after so many pieces."""
    pause: float = 0.0
    """Seconds between reads."""


@dataclass
class Timing:
    """What a client saw."""

    status: int = 0
    first: float | None = None
    gaps: list[float] = field(default_factory=list)
    tokens: int = 0
    error: str | None = None


@dataclass
class Tally:
    """What all clients saw."""

    statuses: Counter[int] = field(default_factory=Counter)
    first: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    tokens: int = 0
    errors: list[str] = field(default_factory=list)

    def add(self, timing: Timing) -> None:
        self.statuses[timing.status] += 1
        self.first += [] if timing.first is None else [timing.first]
        self.gaps += timing.gaps
        self.tokens += timing.tokens
        self.errors += [] if timing.error is None else [timing.error]


async def ask(asked: Answering) -> Timing:
    """Send one streaming request and read the answer."""
    timing = Timing()
    body = json.dumps(
        {
            "messages": [{"role": "user", "content": asked.question}],
            "max_tokens": asked.max_tokens,
            "seed": asked.seed,
            "logit_bias": dict.fromkeys(map(str, asked.banned), -100),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()
    began = time.perf_counter()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", asked.port)
    except OSError as error:
        timing.error = str(error)
        return timing
    try:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        timing.status = int((await reader.readline()).split()[1])
        if timing.status == 200:
            await listen(reader, asked, timing, began)
    except (OSError, IndexError, ValueError) as error:
        timing.error = f"{type(error).__name__}: {error}"
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return timing


async def listen(reader: asyncio.StreamReader, asked: Answering, timing: Timing, began: float) -> None:
    """Read a stream, to its end or until it is time to leave. Only what matters is parsed: clients share the cores."""
    last, count = began, 0
    async for line in reader:
        if not line.startswith(b"data: {"):
            if line.startswith(b"data: [DONE]"):
                break
            continue
        now = time.perf_counter()
        if line.startswith(b'data: {"error"'):
            timing.error = json.loads(line[6:])["error"]["message"]
        elif b'"usage": {' in line:
            timing.tokens = json.loads(line[6:])["usage"]["completion_tokens"]
        elif b'"delta": {"content"' in line:
            if timing.first is None:
                timing.first = now - began
            elif not asked.pause:
                timing.gaps.append(now - last)
            last = now
        count += 1
        if count == asked.leave_after:
            return
        if asked.pause:
            await asyncio.sleep(asked.pause)
    if not timing.tokens:
        timing.error = timing.error or "the stream ended early"
