"""`/api/runs`: what trainings, running or finished, have written to their metrics files."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from nanochat.checkpoint import store
from nanochat.config import finite, to_json
from nanochat.errors import EnvironmentFault
from nanochat.metrics import LoggedRow, parse_row
from nanochat.metrics_rows import StepRow
from nanochat.paths import Paths, is_run
from nanochat.serve.faults import ApiFault, invalid, json_response

_MOST_BYTES = 2**20
"""Of a metrics file per response; the client asks again from where it ended."""
_TAIL_BYTES = 2**16
"""Enough for the newest step and stage."""


class Trainings:
    """The endpoints that read metrics files."""

    def __init__(self, paths: Paths):
        self._paths = paths

    async def runs(self, request: Request) -> Response:
        """`GET /api/runs`."""
        return json_response(await asyncio.to_thread(self._list))

    async def metrics(self, request: Request) -> Response:
        """`GET /api/runs/{run}/metrics?after=BYTE`: the rows after a byte, where to continue, and when
        the training began: with another time they are another training's, to be read from byte 0."""
        run, after = request.path_params["run"], request.query_params.get("after", "0")
        if not after.isdecimal() or len(after) > 15:
            raise invalid("after must be a number of bytes: the 'next' of the last response", param="after")
        path = self._paths.metrics(run) if is_run(run) else None
        if path is None or not path.is_file():
            raise ApiFault(404, f"there is no run {run[:100]!r}: GET /api/runs lists them", code="not_found")
        try:
            return json_response(await asyncio.to_thread(_rows_after, path, int(after)))
        except FileNotFoundError:  # set aside in this moment
            return json_response({"rows": [], "next": 0, "started": None})

    def _list(self) -> list[dict[str, Any]]:
        files = (self._paths.base / "runs").glob("*/metrics.jsonl")
        summaries = [self._summary(path) for path in sorted(files) if is_run(path.parent.name)]
        return [summary for summary in summaries if summary is not None]

    def _summary(self, path: Path) -> dict[str, Any] | None:
        run = path.parent.name
        try:
            found = path.stat()
            rows, _ = _read(path, max(0, found.st_size - _TAIL_BYTES))
        except FileNotFoundError:  # set aside in this moment
            return None
        steps = [logged.row.step for logged in rows if isinstance(logged.row, StepRow)]
        return {
            "run": run,
            "stage": rows[-1].stage if rows else None,
            "steps": max(steps, default=None),
            "finished": self._finished(run),
            "updated": found.st_mtime,
        }

    def _finished(self, run: str) -> bool:
        """Whether the newest checkpoint is at the end of the schedule. Its files are not hashed here."""
        try:
            return store.finished_step(self._paths.checkpoints(run), verify=False) is not None
        except (EnvironmentFault, ValueError):
            return False


def _rows_after(path: Path, after: int) -> dict[str, Any]:
    if after > path.stat().st_size:  # another run's file took the place of this one
        after = 0
    started = _started(path)  # before the rows: if the file is replaced in between, the next response tells
    rows, following = _read(path, after)
    table = [finite(to_json(logged.to_json())) for logged in rows]
    return {"rows": table, "next": following, "started": started}


def _started(path: Path) -> float | None:
    """The time of the first row."""
    with path.open("rb") as file:
        line = file.readline(_TAIL_BYTES)
    try:
        return parse_row(line).time
    except ValueError:  # not complete yet
        return None


def _read(path: Path, start: int) -> tuple[list[LoggedRow], int]:
    """(rows of the complete lines from a byte on, the byte after them). Invalid lines are left out."""
    with path.open("rb") as file:
        file.seek(start)
        block = file.read(_MOST_BYTES)
    complete = block[: block.rfind(b"\n") + 1]
    if not complete and len(block) == _MOST_BYTES:  # no line is that long: pass over it
        complete = block
    rows = []
    for line in complete.splitlines():
        try:
            rows.append(parse_row(line))
        except ValueError:
            continue
    return rows, start + len(complete)
