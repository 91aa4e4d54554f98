"""A server for the page whose answers and failures a test decides, on a real port; its page is the real one."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

PAGE = Path(__file__).resolve().parents[2] / "nanochat/serve/page"
CONTEXT = 256
SECURITY = {"Content-Security-Policy": "default-src 'self'", "X-Content-Type-Options": "nosniff"}
INFO = {
    "version": "0",
    "default_model": "sft",
    "device": "cpu",
    "defaults": {
        **{"temperature": 0.6, "top_k": 50, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0},
        **{"max_tokens": 128, "system": ""},
    },
    "limits": {"max_tokens": 200, "context": CONTEXT, "top_logprobs": 20, "body_bytes": 1_000_000},
}


def model(name: str, kind: str, steps: list[int]) -> dict[str, Any]:
    details = {"kind": kind, "step": steps[-1], "steps": steps, "context": CONTEXT, "vocab_size": 300}
    details |= {"parameters": 2_900_000, "loaded": True}
    return {"id": name, "object": "model", "created": 1, "owned_by": "nanochat", "nanochat": details}


@dataclass
class Answer:
    """How the next answer goes. Texts are tokens; a table gives its other fields."""

    tokens: list[str | dict[str, Any]]
    finished: str = "stop"
    wait_after: int | None = None
    """Number of tokens after which the answer waits for `go`."""
    every_s: float = 0.0
    """Before each token."""
    cut_after: int | None = None
    """Number of tokens after which the connection ends without [DONE]."""
    error_after: int | None = None
    status: int = 200
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    go: threading.Event = field(default_factory=threading.Event)
    left: threading.Event = field(default_factory=threading.Event)
    """Set when the client has closed the connection before the end."""


class Stub:
    """Answers in the order given; an echo where none is left."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.bodies: list[dict[str, Any]] = []
        self.models = [model("sft", "chat", [100, 200]), model("baserun", "base", [500, 1000])]
        self.runs: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []
        self.started = 1.0

    def plan(self, *tokens: str | dict[str, Any], **how: Any) -> Answer:
        answer = Answer(list(tokens), **how)
        self.answers.append(answer)
        return answer

    async def generate(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        last = (body.get("messages") or [{"content": body.get("text") or "?"}])[-1]["content"]
        answer = self.answers.pop(0) if self.answers else Answer(["You said: ", last, "."])
        if answer.status != 200:
            error = {"message": "refused by the test", "type": "x", "param": None, "code": answer.code}
            return JSONResponse({"error": error}, answer.status, answer.headers)
        return StreamingResponse(self._events(body, answer), media_type="text/event-stream")

    async def _events(self, body: dict[str, Any], answer: Answer) -> AsyncIterator[bytes]:
        reply = body.get("reply_ids") or []
        prompt = [{"id": 256 + i, "text": "p", "special": None, "role": "user"} for i in range(12)]
        prompt += [{"id": i, "text": "r", "special": None, "role": "assistant"} for i in reply]
        try:
            yield _event({"prompt": prompt, "seed": 7})
            for index, token in enumerate([*answer.tokens, None]):
                if index == answer.wait_after:
                    while not answer.go.is_set():
                        await asyncio.sleep(0.01)
                if index == answer.cut_after:
                    raise ConnectionError("cut by the test")
                if index == answer.error_after:
                    yield _event({"error": {"message": "the model broke", "type": "x", "code": "failed"}})
                    break
                if token is None:
                    break
                await asyncio.sleep(answer.every_s)
                last = index == len(answer.tokens) - 1
                yield _event(_token(len(reply) + index, token, answer.finished if last else None))
            yield b"data: [DONE]\n\n"
        except asyncio.CancelledError:
            answer.left.set()
            raise

    def app(self) -> Starlette:
        async def info(request: Request) -> Response:
            return JSONResponse(INFO)

        async def models(request: Request) -> Response:
            return JSONResponse({"object": "list", "data": self.models})

        async def runs(request: Request) -> Response:
            return JSONResponse(self.runs)

        async def metrics(request: Request) -> Response:
            after = int(request.query_params["after"])
            return JSONResponse({"rows": self.rows[after:], "next": len(self.rows), "started": self.started})

        def page(name: str) -> Any:
            async def serve(request: Request) -> Response:
                return FileResponse(PAGE / name, headers=SECURITY)

            return serve

        return Starlette(
            routes=[
                Route("/", page("index.html")),
                Route("/lab", page("lab.html")),
                Route("/api/info", info),
                Route("/v1/models", models),
                Route("/api/generate", self.generate, methods=["POST"]),
                Route("/api/runs", runs),
                Route("/api/runs/{run}/metrics", metrics),
                Mount("/static", StaticFiles(directory=PAGE)),
            ]
        )


def _event(value: Any) -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


def _token(index: int, token: str | dict[str, Any], finished: str | None) -> dict[str, Any]:
    plain = {"id": index, "text": token if isinstance(token, str) else "", "part": "text", "forced": False}
    plain |= {"special": None, "logprob": -0.1, "top": [], "finished": finished}
    return plain | token if isinstance(token, dict) else plain


class Listening:
    """A uvicorn server in a thread. `stop` cuts its connections, as a killed process does."""

    def __init__(self, app: Any, port: int = 0):
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", port))
        self._socket.listen()  # connections wait for the server instead of being refused
        self.port = self._socket.getsockname()[1]
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def stop(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()
        self._socket.close()
