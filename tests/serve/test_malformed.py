"""Malformed requests: every answer is a 4xx in OpenAI's form, nothing is logged as a failure, the server answers on."""

from __future__ import annotations

import http.client
import json
import logging
import random
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.serve.conftest import Running

GOOD: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2},
    "/v1/completions": {"prompt": "hi", "max_tokens": 2},
    "/tokenize": {"prompt": "hi"},
    "/api/generate": {"text": "hi", "max_tokens": 2},
    "/api/next": {"ids": [1, 2], "top": 3},
    "/api/score": {"text": "hi"},
    "/api/tokens": {"text": "hi"},
}
DEEP: Any = 0
for _ in range(80):
    DEEP = [DEEP]
WRONG: tuple[Any, ...] = (
    True,
    -(10**30),
    1.5e300,
    float("nan"),
    float("inf"),
    "",
    "\ud800",
    "x" * 5000,
    [],
    [[]],
    [None],
    {},
    {"": {}},
    DEEP,
    [{"role": "user", "content": DEEP}],
    [{"role": "user", "content": [{"type": "text"}]}],
    [{"role": "\ud800"}],
    [3, "x", None],
)
SOUND = {"text": (str,), "prompt": (str,), "ids": (), "top": (), "max_tokens": (), "messages": ()}
"""Types of WRONG that would be right in a field: a text may be any string within the limits."""


def wrong_field(choose: random.Random) -> bytes:
    path = choose.choice(list(GOOD))
    field = choose.choice(list(GOOD[path]))
    values = [v for v in WRONG if not isinstance(v, SOUND[field])]
    return request(path, json.dumps({**GOOD[path], field: choose.choice(values)}).encode())


def wrong_json(choose: random.Random) -> bytes:
    path = choose.choice(list(GOOD))
    whole = json.dumps(GOOD[path]).encode()
    bodies = (
        b"",
        whole[: choose.randrange(1, len(whole))],
        b"\xff\xfe" + whole,
        whole.replace(b"hi", b"\xc3\x28").replace(b"[1", b"[\xff"),
        b"[" * choose.randrange(200, 200_000),
        b'{"a":' * choose.randrange(200, 100_000),
        b"9" * choose.randrange(1, 100_000),
        b'"text"',
        b"null",
        choose.randbytes(choose.randrange(1, 300)) + b"\x00",
        json.dumps(whole.decode() * 100).encode(),
        b'{"model": "x", ' + b'"a":1,' * 1000,
    )
    return request(path, choose.choice(bodies))


def wrong_http(choose: random.Random) -> bytes:
    path = choose.choice(list(GOOD))
    body = json.dumps(GOOD[path]).encode()
    return choose.choice(
        (
            choose.randbytes(choose.randrange(5, 500)) + b"\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET /v1/models HTTP/1.1\r\n\r\n",
            b"GET /v1/models HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
            b"GET  /two-spaces HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: localhost\r\nA: " + b"x" * 600_000 + b"\r\n\r\n",
            b"GET /" + b"x" * 600_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
            request(path, body, length=b"-5"),
            request(path, body, length=b"many"),
            request(path, body, length=b"1" * 40),
            request(path, body, length=b"10000000000"),
            request(path, body, length=str(len(body) // 2).encode()),
            request(path, b"zz\r\n" + body, more=b"Transfer-Encoding: chunked\r\n", length=None),
            request(path, b"5\r\nab", more=b"Transfer-Encoding: nonsense\r\n", length=None),
            request("/nowhere%00%ff", body),
            request("/v1/models/%2e%2e%2f%00", b"").replace(b"POST", b"GET"),
            request(path, body).replace(b"localhost", b"evil.example"),
        )
    )


def cut(choose: random.Random) -> bytes:
    whole = choose.choice((wrong_json, wrong_http))(choose)
    return whole[: choose.randrange(1, len(whole))]


def request(path: str, body: bytes, *, more: bytes = b"", length: bytes | None = b"right") -> bytes:
    stated = str(len(body)).encode() if length == b"right" else length
    size = b"" if stated is None else b"Content-Length: " + stated + b"\r\n"
    head = b"POST " + path.encode() + b" HTTP/1.1\r\nHost: localhost\r\n" + size + more
    return head + b"Connection: close\r\n\r\n" + body


def send(server: Running, raw: bytes) -> tuple[int, bytes] | None:
    """The status and body of the answer, or None if the server only closes the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        try:
            connection.sendall(raw)
            response = http.client.HTTPResponse(connection)
            response.begin()
            return response.status, response.read()
        except (ConnectionError, http.client.BadStatusLine):
            return None


def check(raw: bytes, answer: tuple[int, bytes] | None) -> None:
    if answer is not None:
        status, body = answer
        assert 400 <= status < 500, (raw[:300], answer)
        assert list(json.loads(body)["error"]) == ["message", "type", "param", "code"], (raw[:300], answer)


KINDS: tuple[Callable[[random.Random], bytes], ...] = (wrong_field, wrong_json, wrong_http)


def bombard(server: Running, count: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    choose = random.Random(0)
    with ThreadPoolExecutor(8) as threads:
        raws = [choose.choice(KINDS)(choose) for _ in range(count)]
        answers = list(threads.map(lambda raw: send(server, raw), raws))
        for raw, answer in zip(raws, answers, strict=True):
            check(raw, answer)
        assert sum(answer is not None for answer in answers) > 0.9 * count
        torn = [cut(choose) for _ in range(count // 4)]

        def leave(raw: bytes) -> None:
            with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
                connection.sendall(raw)

        list(threads.map(leave, torn))
    server.settle()
    assert [record.getMessage() for record in caplog.records] == []
    assert server.worker().outstanding == 0
    assert server.chat(max_tokens=1).status == 200


def test_malformed_requests_get_an_error_in_openais_form(
    server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    bombard(server, 60, caplog)


@pytest.mark.slow
def test_two_thousand_malformed_requests(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    bombard(server, 1600, caplog)
