"""The socket, and uvicorn with our signals, errors and time limits."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from nanochat.errors import EnvironmentFault
from nanochat.serve.faults import invalid
from nanochat.serve.service import Service

_IDLE_SECONDS = 30
"""For a request to arrive, its headers complete, on a new connection and after each response."""
_STALLED_MS = 60_000
"""A client that accepts nothing for this long loses its connection."""
_MOST_AHEAD_BYTES = 2**16
"""Of further requests that a client may send before it has its answer."""
_SEND_BUFFER_BYTES = 2**18
"""Of a connection in the kernel, which by default would hold megabytes for a client that does not read."""


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A listening socket. Raises OSError naming the address, ValueError for an impossible one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        if sys.platform == "linux":
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _STALLED_MS)
        try:
            listener.bind((host, port))
        except (OSError, OverflowError) as error:
            if isinstance(error, OverflowError | socket.gaierror):
                raise ValueError(f"cannot listen on {host} port {port}: {error}") from None
            raise EnvironmentFault(
                f"cannot listen on {host} port {port}: {error.strerror}; choose another --port (0: any free one)"
            ) from None
        listener.listen(1024)
        yield listener


class Server(uvicorn.Server):
    """uvicorn with our signals, errors and log."""

    def __init__(self, service: Service, app: ASGIApp):
        super().__init__(
            uvicorn.Config(
                app,
                http=_Protocol,
                loop="asyncio",  # uvloop, where it is installed, gains nothing (docs/log.md)
                ws="none",
                lifespan="on",
                log_config=None,
                log_level=logging.CRITICAL,  # the app logs, and answers, its own failures
                access_log=False,
                server_header=False,
                timeout_keep_alive=_IDLE_SECONDS,
                timeout_graceful_shutdown=math.ceil(service.limits.seconds),
            )
        )
        self._service = service

    def stop(self) -> None:
        """Accept nothing new, refuse what waits, finish what runs. A second call ends that too."""
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True
        self._service.pool.drain()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at SIGTERM and SIGINT, which only a main thread receives."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def on_tick(self, counter: int) -> bool:
        """Also end if the default model cannot be loaded."""
        self.should_exit |= self._service.pool.load_fault is not None
        return await super().on_tick(counter)


class _Protocol(H11Protocol):
    """Answers malformed HTTP in our form, and closes connections on which no request arrives."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for a request."""
        super().connection_made(_GatheringTransport(transport, self.loop))
        self._await_request()

    def data_received(self, data: bytes) -> None:
        """Wait further while a request's headers are incomplete; uvicorn would wait forever."""
        waiting, self.timeout_keep_alive_task = self.timeout_keep_alive_task, None
        begins = not self.conn.trailing_data[0]
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE or begins:
            if waiting is not None:
                waiting.cancel()
            if self.conn.their_state is h11.IDLE:
                self._await_request()
        else:
            self.timeout_keep_alive_task = waiting
        # uvicorn stops reading at the next request, and would not notice a client that leaves.
        if self.conn.their_state is h11.DONE and len(self.conn.trailing_data[0]) <= _MOST_AHEAD_BYTES:
            self.flow.resume_reading()

    def _await_request(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP request."""
        if self.conn.our_state is not h11.IDLE and self.conn.our_state is not h11.SEND_RESPONSE:
            self.transport.abort()  # in the middle of a response nothing else can be said
            return
        fault = invalid("this is not a valid HTTP request", code="invalid_http")
        body = json.dumps(fault.body()).encode()
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        for event in (
            h11.Response(status_code=fault.status, headers=headers),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class _GatheringTransport(asyncio.Transport):
    """Makes one write of those within one step of the loop: a response's head and first piece, its last and its end.

    Each costs a system call, a packet, and a wait for the interpreter's lock, which the engine then takes.
    """

    def __init__(self, inner: asyncio.Transport, loop: asyncio.AbstractEventLoop):
        super().__init__()
        self._inner, self._loop = inner, loop
        self._pieces: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(bytes(data))

    def _flush(self) -> None:
        if self._pieces:
            pieces, self._pieces = self._pieces, []
            self._inner.write(b"".join(pieces))

    def close(self) -> None:
        self._flush()
        self._inner.close()

    def abort(self) -> None:
        self._inner.abort()

    def is_closing(self) -> bool:
        return self._inner.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._inner.get_extra_info(name, default)

    def pause_reading(self) -> None:
        self._inner.pause_reading()

    def resume_reading(self) -> None:
        self._inner.resume_reading()
