"""Clients for bench/serve.py: one streaming request over a raw socket, so that many cost little."""

import asyncio
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
    """Seconds that it takes to read a piece."""


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
    loop = asyncio.get_running_loop()
    client = _Client(asked, loop)
    try:
        await loop.create_connection(lambda: client, "127.0.0.1", asked.port)
    except OSError as error:
        client.timing.error = str(error)
        return client.timing
    await client.ended
    return client.timing


def request(asked: Answering) -> bytes:
    """The whole HTTP request."""
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
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class _Client(asyncio.Protocol):
    """Only what matters is parsed, and nothing is awaited between two pieces: clients share the server's cores."""

    def __init__(self, asked: Answering, loop: asyncio.AbstractEventLoop):
        self.timing, self.ended = Timing(), loop.create_future()
        self._asked, self._loop = asked, loop
        self._last = self._began = time.perf_counter()
        self._rest = b""
        self._count = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(request(self._asked))

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if not self.timing.status:
            self.timing.status = int(lines[0].split()[1])
        now, before = time.perf_counter(), self._count
        for line in lines:
            if line.startswith(b"data: {"):
                self._read(line, now)
                if self._count == self._asked.leave_after:
                    break
            elif line.startswith(b"data: [DONE]"):
                break
        else:
            if self.timing.status != 200:
                self._transport.close()
            elif self._asked.pause:
                self._transport.pause_reading()
                pause = self._asked.pause * (self._count - before)
                self._loop.call_later(pause, self._transport.resume_reading)
            return
        self._transport.close()

    def _read(self, line: bytes, now: float) -> None:
        timing = self.timing
        if line.startswith(b'data: {"error"'):
            timing.error = json.loads(line[6:])["error"]["message"]
        elif b'"usage": {' in line:
            timing.tokens = json.loads(line[6:])["usage"]["completion_tokens"]
        elif b'"delta": {"content"' in line:
            if timing.first is None:
                timing.first = now - self._began
            elif not self._asked.pause:
                timing.gaps.append(now - self._last)
            self._last = now
        self._count += 1

    def connection_lost(self, exc: Exception | None) -> None:
        timing = self.timing
        left = self._asked.leave_after is not None and self._count >= self._asked.leave_after
        if timing.status in (0, 200) and not timing.tokens and not left:
            timing.error = timing.error or str(exc or "the stream ended early")
        if not self.ended.done():
            self.ended.set_result(None)
