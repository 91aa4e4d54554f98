"""A request's channel: the first tokens at once, the end at once, a bound for slow readers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from nanochat.infer.request import Event
from nanochat.serve import channel as module
from nanochat.serve.channel import Channel, SlowReader


def event(token: int, finished: Any = None) -> Event:
    return Event(0, token, False, finished, "text", "x")


async def read(channel: Channel) -> list[list[int]]:
    return [[event.token for events in batch.values() for event in events] async for batch in channel]


def test_the_first_token_and_the_end_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PACE_SECONDS", 1000.0)

    async def run() -> None:
        channel = Channel(1, 100, lambda _: None)
        reading = asyncio.create_task(read(channel))
        for token in range(3):
            channel.push(0, [event(token)])
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        channel.push(0, [event(3, "stop")])
        assert await asyncio.wait_for(reading, 60) == [[0], [1, 2, 3]]

    asyncio.run(run())


def test_later_tokens_come_in_batches_before_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PACE_SECONDS", 0.01)

    async def run() -> None:
        channel = Channel(1, 100, lambda _: None)
        batches = aiter(channel)
        channel.push(0, [event(0)])
        assert len((await anext(batches))[0]) == 1
        channel.push(0, [event(1)])
        channel.push(0, [event(2)])
        assert len((await asyncio.wait_for(anext(batches), 60))[0]) == 2

    asyncio.run(run())


def test_waiting_for_the_next_batch_does_not_overflow_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is for the reader's delay, not for the channel's own, and is that of each sample."""
    monkeypatch.setattr(module, "_PACE_SECONDS", 1000.0)

    async def run() -> None:
        channel = Channel(2, 4, lambda _: None)
        reading = asyncio.create_task(read(channel))
        for token in range(20):
            channel.push(token % 2, [event(token, "stop" if token > 17 else None)])
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        batches = await asyncio.wait_for(reading, 60)
        assert sorted(token for batch in batches for token in batch) == list(range(20))
        behind = Channel(2, 4, lambda _: None)
        for token in range(9):
            assert not behind.overflowed
            behind.push(0, [event(token)])
        assert behind.overflowed

    asyncio.run(run())


def test_a_reader_too_far_behind_ends_the_request_unless_it_wants_all() -> None:
    async def run() -> None:
        cancelled: list[Channel] = []
        slow = Channel(1, 3, cancelled.append)
        for token in range(5):
            slow.push(0, [event(token)])
        assert cancelled == [slow]
        with pytest.raises(SlowReader):
            await read(slow)
        whole = Channel(2, 3, cancelled.append)
        whole.wait_for_all()
        for token in range(5):
            whole.push(0, [event(token)])
        whole.push(0, [event(5, "stop")])
        whole.push(1, [event(6, "length")])
        assert await read(whole) == [[0, 1, 2, 3, 4, 5, 6]]

    asyncio.run(run())


def test_a_fault_comes_after_what_has_arrived_and_closing_cancels_once() -> None:
    async def run() -> None:
        cancelled: list[Channel] = []
        failing = Channel(1, 3, cancelled.append)
        failing.push(0, [event(0)])
        failing.fail(RuntimeError("made to fail"))
        batches = aiter(failing)
        assert len((await anext(batches))[0]) == 1
        with pytest.raises(RuntimeError, match="made to fail"):
            await anext(batches)
        left = Channel(1, 3, cancelled.append)
        left.close()
        left.close()
        assert await read(left) == []
        assert cancelled == [failing, left]

    asyncio.run(run())


def test_many_streams_together_are_written_about_as_often_as_a_few() -> None:
    assert module.pace(1) == module.pace(6) == 0.02
    assert [streams / module.pace(streams) for streams in (16, 40, 80)] == pytest.approx([320] * 3)
    assert module.pace(10_000) == 0.25
