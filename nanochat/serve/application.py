"""The ASGI app: routes, and everything around them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from nanochat.paths import Paths
from nanochat.serve.completions import Completions
from nanochat.serve.faults import ApiFault, json_response
from nanochat.serve.guard import Access, Guard
from nanochat.serve.lab import Lab
from nanochat.serve.service import Service
from nanochat.serve.trainings import Trainings

_PAGE = Path(__file__).parent / "page"
_CODES = {404: "not_found", 405: "method_not_allowed"}


class Listing:
    """The endpoints about the server itself."""

    def __init__(self, service: Service):
        self._service = service

    async def health(self, request: Request) -> Response:
        """`GET /health`: 200 when the default model answers, 503 while it loads and when the server stops."""
        state = self._service.pool.state()
        return json_response({"status": state}, 200 if state == "ok" else 503)

    async def metrics(self, request: Request) -> Response:
        """`GET /metrics`, for Prometheus."""
        return Response(self._service.telemetry.exposition(), media_type="text/plain; version=0.0.4")

    async def models(self, request: Request) -> Response:
        """`GET /v1/models`."""
        pool = self._service.pool
        cards = await pool.cards()
        return json_response({"object": "list", "data": [card.to_json(pool.loaded(card)) for card in cards]})

    async def model(self, request: Request) -> Response:
        """`GET /v1/models/{id}`."""
        pool = self._service.pool
        card = await pool.card(request.path_params["id"])
        return json_response(card.to_json(pool.loaded(card)))


async def _fault(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiFault)
    return error.response()


async def _framework_fault(request: Request, error: Exception) -> Response:
    """What Starlette itself refuses, in our form."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path[:200]}: {error.detail}"
    return ApiFault(
        error.status_code, message, code=_CODES.get(error.status_code), headers=error.headers
    ).response()


async def _unexpected(_: Request, error: Exception) -> Response:
    """Leave it to the guard, which logs it: Starlette would answer in plain text."""
    raise error


def _page(name: str) -> Route:
    async def page(request: Request) -> Response:
        return FileResponse(_PAGE / f"{name}.html", headers={"Cache-Control": "no-cache"})

    return Route({"index": "/"}.get(name, f"/{name}"), page)


class _Files(StaticFiles):
    """The page's files, revalidated on every load, so that an update is seen at once."""

    def file_response(self, *arguments: object, **named: object) -> Response:
        response = super().file_response(*arguments, **named)  # type: ignore[arg-type]
        response.headers["Cache-Control"] = "no-cache"
        return response


def make_app(service: Service, access: Access, paths: Paths) -> ASGIApp:
    """The app. Starting it loads the default model in the background; ending it unloads all."""
    listing, completions, lab, trainings = (
        Listing(service),
        Completions(service),
        Lab(service),
        Trainings(paths),
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        service.pool.preload(service.default_model)
        yield
        await service.pool.close()

    routes = [
        Route("/health", listing.health),
        Route("/metrics", listing.metrics),
        Route("/v1/models", listing.models),
        Route("/v1/models/{id:path}", listing.model),
        Route("/v1/chat/completions", completions.chat, methods=["POST"]),
        Route("/v1/completions", completions.text, methods=["POST"]),
        Route("/tokenize", completions.tokenize, methods=["POST"]),
        Route("/api/info", lab.info),
        Route("/api/generate", lab.generate, methods=["POST"]),
        Route("/api/next", lab.next, methods=["POST"]),
        Route("/api/score", lab.score, methods=["POST"]),
        Route("/api/tokens", lab.tokens, methods=["POST"]),
        Route("/api/runs", trainings.runs),
        Route("/api/runs/{run}/metrics", trainings.metrics),
        _page("index"),
        _page("lab"),
        Mount("/static", _Files(directory=_PAGE)),
    ]
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={ApiFault: _fault, HTTPException: _framework_fault, Exception: _unexpected},
    )
    guarded = Guard(app, access, lambda status: service.telemetry.responses.labels(str(status)).inc())
    if not access.origins:
        return guarded
    return CORSMiddleware(  # around the guard, so that pages can read its refusals too
        guarded, allow_origins=access.origins, allow_methods=["GET", "POST"], allow_headers=["*"]
    )
