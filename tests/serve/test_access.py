"""Who may ask, and what every response carries."""

from __future__ import annotations

import http.client
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanochat.paths import Paths
from nanochat.serve.guard import SECURITY_HEADERS, check_names
from nanochat.serve.server import ServeConfig, run
from tests.serve.conftest import Answered, Running


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost", True),
        ("localhost:8000", True),
        ("127.0.0.1:1", True),
        ("[::1]:8000", True),
        ("192.168.1.5", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
        ("[::1", False),
        ("a@localhost", True),
    ],
)
def test_only_known_names_are_answered(server: Running, host: str, allowed: bool) -> None:
    answered = server.ask("GET", "/v1/models", headers={"Host": host})
    assert answered.status == (200 if allowed else 403)
    if not allowed:
        assert answered.error["code"] == "host_not_allowed"


def test_pages_of_other_origins_are_refused(server: Running) -> None:
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1", "http://["):
        answered = server.ask("POST", "/v1/chat/completions", {}, {"Origin": origin})
        assert answered.status == 403
        assert answered.error["code"] == "origin_not_allowed"
        assert "access-control-allow-origin" not in answered.headers
    own = server.ask("GET", "/v1/models", headers={"Origin": server.url})
    assert own.status == 200
    assert "access-control-allow-origin" not in own.headers


@pytest.mark.slow
def test_allowed_names_and_origins(new_server: Callable[..., Any]) -> None:
    with new_server(allow_host=("Chat.example",), cors_origin=("https://page.example",)) as server:
        headers = {"Host": "chat.example", "Origin": "https://page.example"}
        answered = server.ask("GET", "/v1/models", headers=headers)
        assert answered.status == 200
        assert answered.headers["access-control-allow-origin"] == "https://page.example"
        asked = {**headers, "Access-Control-Request-Method": "POST"}
        assert server.ask("OPTIONS", "/v1/chat/completions", headers=asked).status == 200
        headers["Origin"] = "https://other.example"
        assert server.ask("GET", "/v1/models", headers=headers).status == 403


@pytest.mark.slow
def test_a_key_is_asked_for(new_server: Callable[..., Any]) -> None:
    with new_server(api_key="sésame") as server:
        for path in ("/", "/lab", "/health", "/static/index.html"):
            assert server.ask("GET", path).status in (200, 503)
        for path in ("/v1/models", "/metrics", "/api/info", "/nowhere"):
            for key in (None, "Bearer", "Bearer wrong", "Basic sésame", "Bearer sésam", "Bearer sésame2"):
                headers = {} if key is None else {"Authorization": key.encode()}
                answered = server.ask("GET", path, headers=headers)
                assert answered.status == 401
                assert answered.error["code"] == "invalid_api_key"
        right = {"Authorization": "Bearer sésame".encode()}
        assert server.ask("GET", "/v1/models", headers=right).status == 200


@pytest.mark.parametrize("path", ["/", "/lab", "/v1/models", "/nowhere", "/static/index.html", "/metrics"])
def test_every_response_has_the_security_headers(server: Running, path: str) -> None:
    headers = server.ask("GET", path).headers
    for name, value in SECURITY_HEADERS.items():
        assert headers[name.lower()] == value
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["cache-control"] in ("no-store", "no-cache")
    assert "server" not in headers


def test_the_page_is_served(server: Running) -> None:
    for path in ("/", "/lab", "/static/lab.html"):
        page = server.ask("GET", path)
        assert page.status == 200
        assert page.headers["content-type"].startswith("text/html")
    for path in ("/static/../application.py", "/static/%2e%2e/application.py", "/static/nope.js"):
        assert server.ask("GET", path).error["code"] == "not_found"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "TRACE", "FOO"])
def test_another_method_is_an_error_in_our_form(server: Running, method: str) -> None:
    answered = server.ask(method, "/v1/chat/completions")
    assert answered.status == 405
    assert answered.error["code"] == "method_not_allowed"
    assert answered.headers["allow"] == "POST"


def test_a_fault_of_ours_is_an_error_in_our_form(
    server: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server.service.telemetry, "exposition", lambda: {}["missing"])
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    for _ in range(2):
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        answered = Answered(response.status, dict(response.getheaders()), response.read())
        assert (answered.status, answered.error["code"]) == (500, "internal_error")
        assert "missing" not in answered.error["message"]
        assert not response.will_close
    connection.close()
    assert "KeyError: 'missing'" in caplog.text


@pytest.mark.slow
def test_a_large_body_is_refused_before_it_is_sent(new_server: Callable[..., Any]) -> None:
    with new_server(max_body_bytes=1000) as server:
        assert server.ask("POST", "/tokenize", b"x" * 1001).status == 413
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.putrequest("POST", "/tokenize")
        connection.putheader("Content-Length", str(10**12))
        connection.endheaders()
        assert connection.getresponse().status == 413
        connection.close()
        chunked = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        chunked.request("POST", "/tokenize", iter([b"x" * 400] * 3), encode_chunked=True)
        response = chunked.getresponse()
        assert response.status == 413
        chunked.close()


@pytest.mark.slow
@pytest.mark.parametrize("log_requests", [False, True])
def test_the_log_has_texts_only_if_asked(
    new_server: Callable[..., Any], caplog: pytest.LogCaptureFixture, log_requests: bool
) -> None:
    caplog.set_level(logging.INFO, "nanochat.serve")
    with new_server(log_requests=log_requests) as server:
        server.chat("my secret\u001b[2J", max_tokens=1)
        server.chat("my secret", temperature="my secret")
        server.ask("GET", "/v1/models?key=my+secret")
        server.ask("GET", "/%1b[2Jx")
    assert ("my secret" in caplog.text) == log_requests
    assert "POST /v1/chat/completions 200" in caplog.text
    assert "\u001b" not in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\n"])
def test_a_connection_without_a_request_is_closed(new_server: Callable[..., Any], begun: bytes) -> None:
    with new_server() as server:
        server.server.config.timeout_keep_alive = 0.2  # type: ignore[assignment]
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
            connection.sendall(begun)
            assert connection.recv(100) == b""


def test_a_connection_serves_many_requests(server: Running) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    for _ in range(3):
        connection.request("POST", "/tokenize", b'{"prompt": "a"}')
        response = connection.getresponse()
        assert (response.status, response.will_close) == (200, False)
        response.read()
    connection.close()


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        *(
            ({"allow_host": ("*", host)}, "--allow-host takes a name such as example.org, not ")
            for host in ("http://x", "x:8000", "x/y", "", "[")
        ),
        *(
            (
                {"cors_origin": ("*", origin)},
                "--cors-origin takes an origin such as https://example.org, not ",
            )
            for origin in ("foo", "example.org", "https://example.org/", "https://", "", "http://[")
        ),
        ({"max_seconds": 0.0}, "--max-seconds must be a number above 0"),
        ({"temperature": 9e9}, "temperature must be 0"),
    ],
)
def test_flags_that_no_request_can_meet(flags: dict[str, Any], line: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=line):
        run(ServeConfig(**flags), Paths(tmp_path))


def test_names_and_origins_that_requests_can_have() -> None:
    check_names(("*", "Chat.example", "10.0.0.7"), ("*", "null", "https://a.b", "http://localhost:3000"))
