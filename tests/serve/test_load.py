"""Many clients, slow ones, and those that leave: rows are freed, queues are bounded, nobody holds up the others."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from nanochat.serve import worker as worker_module
from tests.serve.conftest import CHAT, Endings, Gate, Running

LONG = {"max_tokens": 400}


def in_background(function: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    return thread, results


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_row_within_three_steps(
    server: Running, gate: Gate, endings: Endings, stream: bool
) -> None:
    connection = server.open_stream(stream=stream, **LONG)
    assert gate.reached.acquire(timeout=60)
    gate.permits.release(5)
    if stream:
        assert connection.recv(100).startswith(b"HTTP/1.1 200 OK")
    for _ in range(5):
        assert gate.reached.acquire(timeout=60)
    connection.close()
    server.settle()
    gate.permits.release(3)
    assert endings.next() == "abort"
    assert server.worker().outstanding == 0


@pytest.mark.parametrize("more", [b"\r\n", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"])
def test_a_client_that_leaves_after_it_sent_more_is_noticed(
    server: Running, gate: Gate, endings: Endings, more: bytes
) -> None:
    connection = server.open_stream(**LONG)
    assert gate.reached.acquire(timeout=60)
    connection.sendall(more)
    server.settle()
    connection.close()
    server.settle()
    gate.permits.release(3)
    assert endings.next() == "abort"


@pytest.mark.slow
def test_a_client_that_leaves_while_it_waits_gives_up_its_place(
    new_server: Callable[..., Any], gate: Gate, endings: Endings
) -> None:
    with new_server(max_rows=1, max_waiting=1) as server:
        first = server.open_stream(stream=True, max_tokens=5)
        assert gate.reached.acquire(timeout=60)
        second = server.open_stream(stream=True, max_tokens=5)
        server.settle()
        assert server.worker().outstanding == 2
        second.close()
        server.settle()
        gate.permits.release(2)
        assert endings.next() == "abort"
        gate.open()
        assert endings.next() == "length"
        first.close()


@pytest.mark.slow
def test_a_full_queue_answers_429(new_server: Callable[..., Any], gate: Gate) -> None:
    with new_server(max_rows=1, max_waiting=1) as server:
        held = [in_background(lambda: server.chat(max_tokens=2)) for _ in range(1)]
        assert gate.reached.acquire(timeout=60)
        held.append(in_background(lambda: server.chat(max_tokens=2)))
        while server.worker().outstanding < 2:
            server.settle()
        refused = server.chat()
        assert refused.status == 429
        assert refused.error["code"] == "rate_limit_exceeded"
        assert refused.headers["retry-after"].isdecimal()
        assert server.post("/api/next", ids=[1], top=1).status == 429
        gate.open()
        for thread, results in held:
            thread.join(60)
            assert results[0].status == 200
        assert server.chat(max_tokens=1).status == 200


def test_a_request_with_more_samples_than_rows_is_answered(server: Running) -> None:
    with ThreadPoolExecutor(4) as threads:
        answered = list(threads.map(lambda n: server.chat(n=n, max_tokens=4), [16, 16, 16, 16]))
    assert [answer.status for answer in answered] == [200] * 4
    assert all(len(answer.json["choices"]) == 16 for answer in answered)
    assert server.worker().outstanding == 0


@pytest.mark.slow
def test_a_slow_reader_ends_alone(server: Running, endings: Endings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.worker(), "_buffered", 256)  # the context is shorter than a server's limit
    slow = server.open_stream(
        receive_buffer=4096, stream=True, n=4, max_tokens=480, logprobs=True, top_logprobs=20
    )
    assert server.chat(max_tokens=20).status == 200
    ended = sorted(endings.next() for _ in range(5))
    assert ended[:4] == ["abort"] * 4, ended
    assert server.worker().outstanding == 0
    received = b"".join(iter(lambda: slow.recv(65536), b""))
    assert received.startswith(b"HTTP/1.1 200 OK")
    assert not received.endswith(b"0\r\n\r\n")  # cut, not completed


@pytest.mark.slow
def test_an_answer_out_of_time_says_so(new_server: Callable[..., Any], gate: Gate) -> None:
    with new_server(max_seconds=0.2) as server:
        late = server.chat()
        assert (late.status, late.error["code"]) == (504, "timeout")
        gate.permits.release(4)
        stream = server.open_stream(stream=True, **LONG)
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            received += stream.recv(65536)
        assert b'"code": "timeout"' in received
        assert b"data: [DONE]" in received
        gate.open()
        server.settle()


@pytest.mark.slow
def test_a_failing_engine_answers_with_an_error_and_is_replaced(
    new_server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with new_server() as server:
        assert server.chat(max_tokens=1).status == 200
        engine = worker_module.Engine
        step = engine.step
        steps = iter(range(1000))

        def failing(self: Any, budget_s: float) -> Any:
            if next(steps) == 3:
                raise RuntimeError("made to fail")
            return step(self, budget_s)

        monkeypatch.setattr(engine, "step", failing)
        events = server.chat(stream=True, max_tokens=20).events
        assert events[-1]["error"]["code"] == "internal_error"
        assert "made to fail" not in json.dumps(events)
        assert "made to fail" in caplog.text
        assert server.chat(max_tokens=3).status == 200


@pytest.mark.slow
def test_a_thousand_disconnects_leak_no_row(server: Running) -> None:
    choose = random.Random(0)

    def leave(_: int) -> None:
        connection = server.open_stream(
            "x" * choose.randrange(100), stream=choose.random() < 0.7, max_tokens=choose.randrange(1, 300)
        )
        if choose.random() < 0.5:
            connection.recv(choose.randrange(1, 2000))
        connection.close()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(leave, range(1000)))
    server.settle()
    worker = server.worker()
    while worker.outstanding:
        server.settle()
    full = server.chat(n=16, max_tokens=3)
    assert full.status == 200
    text = server.ask("GET", "/metrics").body.decode()
    assert f'vllm:num_requests_running{{model_name="{CHAT}"}} 0.0' in text
