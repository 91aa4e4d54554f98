"""Answers while they are generated: server-sent events, cancelled when the client leaves or falls too far behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from nanochat.serve.channel import Channel, NewEvents, SlowReader
from nanochat.serve.faults import ApiFault

DONE = b"data: [DONE]\n\n"
_MEDIA_TYPE = "text/event-stream"
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class Renderer(Protocol):
    """Turns a request's events into the objects that its client receives."""

    def opening(self) -> list[dict[str, Any]]:
        """Before the first token."""

    def chunks(self, batch: NewEvents) -> list[dict[str, Any]]:
        """For new events of its samples."""

    def closing(self) -> list[dict[str, Any]]:
        """After the last token."""


@asynccontextmanager
async def cancelled_on_disconnect(receive: Receive, channel: Channel) -> AsyncIterator[None]:
    """Close the channel when the client disconnects, or at the end of the block."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        channel.close()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        channel.close()


def out_of_time(seconds: float) -> ApiFault:
    """The fault for an answer that takes too long."""
    return ApiFault(504, f"the answer was not complete within {seconds:g} s", code="timeout")


class EventStream(Response):
    """Sends what `renderer` makes of a channel's events.

    The response starts with the first events, so that a request that is refused while it waits gets a status of its
    own. A later error is sent as an event.
    """

    media_type = _MEDIA_TYPE

    def __init__(self, channel: Channel, renderer: Renderer, max_seconds: float):
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._channel, self._renderer, self._max_seconds = channel, renderer, max_seconds
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI response."""
        async with cancelled_on_disconnect(receive, self._channel):
            try:
                last = await self._answer(send)
            except ApiFault as fault:
                if not self._started:
                    raise
                last = [fault.body()]
            except SlowReader:
                return  # incomplete, so that the connection is closed
            if self._started:
                with suppress(TimeoutError):  # of a client that takes nothing: the connection is closed
                    async with asyncio.timeout(self._max_seconds):
                        await send(_body(_events(last) + DONE, more=False))

    async def _answer(self, send: Send) -> list[dict[str, Any]]:
        """Send all objects but the last, which are returned: a write costs as much as some tokens.

        Raises ApiFault, and SlowReader if the client holds up a write.
        """
        objects: list[dict[str, Any]] = []
        try:
            async with asyncio.timeout(self._max_seconds) as deadline:
                overflow = asyncio.get_running_loop().time
                self._channel.on_overflow = lambda: deadline.reschedule(overflow())
                async for batch in self._channel:
                    objects += self._renderer.chunks(batch)
                    if not self._started:
                        self._started = True
                        await send(self._head())
                        objects = self._renderer.opening() + objects
                    if self._channel.unfinished and objects:
                        await send(_body(_events(objects), more=True))
                        objects = []
        except TimeoutError:
            if self._channel.overflowed:
                raise SlowReader from None
            raise out_of_time(self._max_seconds) from None
        return objects + self._renderer.closing()

    def _head(self) -> Message:
        return {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}


def complete_stream(objects: Iterable[dict[str, Any]]) -> Response:
    """The stream of an answer of which everything is known."""
    return Response(_events(objects) + DONE, headers=_HEADERS, media_type=_MEDIA_TYPE)


def _body(content: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": content, "more_body": more}


def _events(objects: Iterable[dict[str, Any]]) -> bytes:
    return "".join(f"data: {json.dumps(item)}\n\n" for item in objects).encode()


async def collected(channel: Channel, receive: Receive, max_seconds: float) -> NewEvents | None:
    """All events of a request, or None if the client left. Raises ApiFault."""
    channel.wait_for_all()
    whole: NewEvents = {}
    async with cancelled_on_disconnect(receive, channel):
        try:
            async with asyncio.timeout(max_seconds):
                async for batch in channel:
                    whole = batch
        except TimeoutError:
            raise out_of_time(max_seconds) from None
    return None if channel.unfinished else whole
