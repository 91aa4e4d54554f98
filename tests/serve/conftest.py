"""Real servers: uvicorn on a loopback port, in a thread, with tiny models of random weights."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
import torch

from nanochat.checkpoint import store
from nanochat.checkpoint.loading import TOKENIZER_DIR
from nanochat.infer.engine import Engine
from nanochat.metrics import open_metrics
from nanochat.metrics_rows import TrainRow
from nanochat.model.backend import REFERENCE
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.paths import Paths
from nanochat.runtime import open_runtime
from nanochat.serve.application import make_app
from nanochat.serve.http_server import Server, listening
from nanochat.serve.server import ServeConfig, access, make_service
from nanochat.serve.service import Service
from nanochat.serve.telemetry import ModelObserver
from nanochat.serve.worker import Worker
from nanochat.tokenizer.tokenizer import Tokenizer
from tests.conftest import BYTES, made_up_meta

CONTEXT = 512
CHAT, BASE = "sft", "baserun"


def train_row(step: int) -> TrainRow:
    return TrainRow(step, 3, step * 64, 5.0 - step, 1.0, 0.1, 1000.0, None, float(step), 0)


def save_run(
    base: Path, run: str, stage: str, steps: tuple[int, ...], context: int = CONTEXT, seed: int = 0
) -> None:
    tokenizer = Tokenizer(BYTES, r"[\s\S]")
    config = GPTConfig(
        max_seq_len=context,
        vocab_size=tokenizer.vocab_size,
        n_layer=2,
        n_head=2,
        n_kv_head=1,
        head_dim=8,
        n_embd=16,
        window_pattern="L",
    )
    directory = Paths(base).checkpoints(run)
    for step in steps:
        model = GPT(config, REFERENCE)
        generator = torch.Generator().manual_seed(seed + step)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.25)
            model.head.weight[256:] = 0  # special tokens are unlikely, so that answers do not end early
            model.head.weight[:256] *= 2
        store.save(directory, made_up_meta(config, step, stage=stage), model.state_dict())
    tokenizer.save(directory / TOKENIZER_DIR)
    with open_metrics(
        Paths(base).metrics(run), stage, wandb_run=None, config=None, enabled=True, resume=False
    ) as metrics:
        for step in (1, 2, 3):
            metrics.log(train_row(step))


@pytest.fixture(scope="session")
def served_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("served")
    save_run(base, CHAT, "sft", (1, 2))
    save_run(base, BASE, "pretrain", (5,))
    return base


@dataclass
class Answered:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The objects of a stream; it must end with [DONE]."""
        lines = self.body.decode().split("\n\n")
        assert lines[-2:] == ["data: [DONE]", ""]
        return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]

    @property
    def error(self) -> dict[str, Any]:
        """The error, whose form is checked."""
        assert 400 <= self.status < 600, (self.status, self.body)
        assert self.headers["content-type"] == "application/json"
        assert list(self.json) == ["error"]
        error = self.json["error"]
        assert list(error) == ["message", "type", "param", "code"]
        assert isinstance(error["message"], str)
        assert error["message"]
        return error


@dataclass
class Running:
    port: int
    service: Service
    server: Server
    loop: asyncio.AbstractEventLoop = field(repr=False)
    thread: threading.Thread

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answered:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection.request(method, path, raw, headers or {})
        response = connection.getresponse()
        answered = Answered(
            response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        )
        connection.close()
        return answered

    def post(self, path: str, **fields: Any) -> Answered:
        return self.ask("POST", path, fields)

    def chat(self, content: str = "hi", **fields: Any) -> Answered:
        return self.post("/v1/chat/completions", messages=[{"role": "user", "content": content}], **fields)

    def worker(self, name: str = CHAT) -> Worker:
        async def find() -> Worker:
            async with self.service.pool.using(name) as served:
                return served.worker

        return asyncio.run_coroutine_threadsafe(find(), self.loop).result(60)

    def open_stream(
        self, content: str = "hi", receive_buffer: int | None = None, **fields: Any
    ) -> socket.socket:
        """Ask for a stream, and leave the reading to the caller."""
        connection = socket.socket()
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(60)
        connection.connect(("127.0.0.1", self.port))
        messages = [{"role": "user", "content": content}]
        body = json.dumps({"messages": messages, **fields}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        return connection

    def settle(self) -> None:
        """Return when the loop has handled everything that had reached it before."""
        assert self.ask("GET", "/v1/models").status == 200
        for _ in range(3):
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self.loop).result(60)


@contextmanager
def serving(base: Path, **flags: Any) -> Iterator[Running]:
    config = ServeConfig(model_tag=CHAT, port=0, device="cpu", **flags)
    started: list[Running] = []
    up = threading.Event()

    class Announcing(Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            started.append(
                Running(port, service, self, asyncio.get_running_loop(), threading.current_thread())
            )
            up.set()

    with (
        open_runtime("cpu", "fp32", Paths(base)) as runtime,
        listening(config.host, config.port) as listener,
    ):
        port = listener.getsockname()[1]
        service = make_service(config, runtime)
        app = make_app(service, access(config), Paths(base))
        thread = threading.Thread(target=lambda: Announcing(service, app).run([listener]))
        thread.start()
        assert up.wait(60)
        running = started[0]
        try:
            yield running
        finally:
            if thread.is_alive():
                running.loop.call_soon_threadsafe(running.server.stop)
            thread.join(60)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def server(served_base: Path) -> Iterator[Running]:
    """One server for all tests that leave it as they found it."""
    with serving(served_base) as running:
        running.worker()
        yield running


@pytest.fixture
def new_server(served_base: Path) -> Callable[..., Any]:
    """Starts a server with flags of its own, for a with block."""
    return lambda **flags: serving(served_base, **flags)


class Gate:
    """Engines run only the steps that a test allows."""

    def __init__(self) -> None:
        self.permits = threading.Semaphore(0)
        self.reached = threading.Semaphore(0)
        """Released when an engine wants to step."""
        self.is_open = False

    def open(self) -> None:
        self.is_open = True
        self.permits.release(1000)


class Endings:
    """How samples ended: `stop`, `length`, `abort` or `error`."""

    def __init__(self) -> None:
        self._ended: SimpleQueue[str] = SimpleQueue()

    def next(self) -> str:
        return self._ended.get(timeout=60)

    def add(self, reason: str) -> None:
        self._ended.put(reason)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    step = Engine.step

    def gated(engine: Engine, budget_s: float) -> Any:
        if not gate.is_open:
            gate.reached.release()
            gate.permits.acquire()
        return step(engine, budget_s)

    monkeypatch.setattr(Engine, "step", gated)
    yield gate
    gate.open()


@pytest.fixture
def endings(monkeypatch: pytest.MonkeyPatch) -> Endings:
    endings = Endings()
    monkeypatch.setattr(ModelObserver, "ended", lambda observer, reason, seconds: endings.add(reason))
    return endings
