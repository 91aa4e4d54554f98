"""A stream's writes: as few as possible, and none that waits for ever."""

import asyncio
import json
from typing import Any

from starlette.types import Message

from nanochat.infer.request import Event
from nanochat.serve.channel import Channel, NewEvents
from nanochat.serve.streaming import EventStream


class Plain:
    """A Renderer that shows the tokens."""

    def opening(self) -> list[dict[str, Any]]:
        return [{"begins": True}]

    def chunks(self, batch: NewEvents) -> list[dict[str, Any]]:
        return [{"tokens": [event.token for event in batch[0]]}]

    def closing(self) -> list[dict[str, Any]]:
        return [{"ends": True}]


def stream(*, blocked: bool) -> list[Message]:
    """What is sent of an answer that is there as a whole, to a client that takes all bodies or none."""

    async def answer() -> list[Message]:
        channel = Channel(1, 10, lambda _: None)
        channel.push(0, [Event(0, 65, False, None, "text", "A"), Event(0, 66, False, "stop", "text", "B")])
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)
            if blocked and message["type"] == "http.response.body":
                await asyncio.Event().wait()

        async def receive() -> Message:
            await asyncio.Event().wait()
            raise AssertionError

        response = EventStream(channel, Plain(), max_seconds=0.01 if blocked else 60)
        await asyncio.wait_for(response({"type": "http"}, receive, send), 30)
        return sent

    return asyncio.run(answer())


def test_an_answer_that_is_there_is_written_at_once() -> None:
    start, body = stream(blocked=False)
    assert start["type"] == "http.response.start"
    *objects, done = [event.removeprefix("data: ") for event in body["body"].decode().strip().split("\n\n")]
    assert [json.loads(item) for item in objects] == [{"begins": True}, {"tokens": [65, 66]}, {"ends": True}]
    assert (done, body["more_body"]) == ("[DONE]", False)


def test_a_client_that_takes_nothing_does_not_hold_the_response() -> None:
    assert [message["type"] for message in stream(blocked=True)] == [
        "http.response.start",
        "http.response.body",
    ]
