"""Models are loaded when they are named, within the budget, and the idle one that was used least recently goes."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanochat.checkpoint import store
from nanochat.paths import Paths
from nanochat.serve import pool as pool_module
from tests.serve.conftest import BASE, CHAT, Gate, Running, save_run, serving

pytestmark = pytest.mark.slow

GREEDY = {"prompt": "a", "max_tokens": 4, "temperature": 0}


def loaded(server: Running) -> set[str]:
    cards = server.ask("GET", "/v1/models").json["data"]
    return {card["id"] for card in cards if card["nanochat"]["loaded"]}


def one_model(server: Running) -> float:
    """Bytes of a tiny model, in GB."""
    pool = server.service.pool
    return pool._size(pool._catalogue.find(CHAT)) / 1e9  # a number that only the pool knows


def test_the_least_recently_used_idle_model_makes_room(
    server: Running, new_server: Callable[..., Any], served_base: Path
) -> None:
    with new_server(memory=2.5 * one_model(server)) as small:
        assert small.post("/v1/completions", model=CHAT, **GREEDY).status == 200
        assert small.post("/v1/completions", model=BASE, **GREEDY).status == 200
        assert loaded(small) == {CHAT, BASE}
        first = small.post("/v1/completions", model=CHAT, **GREEDY).json
        other = small.post("/v1/completions", model=f"{CHAT}@1", **GREEDY)
        assert other.status == 200
        assert loaded(small) == {CHAT}
        again = small.post("/v1/completions", model=CHAT, **GREEDY).json
        assert again["choices"] == first["choices"] != other.json["choices"]


def test_a_busy_model_is_never_unloaded(server: Running, new_server: Callable[..., Any], gate: Gate) -> None:
    with new_server(memory=1.5 * one_model(server)) as small:
        stream = small.open_stream(stream=True, max_tokens=3)
        assert gate.reached.acquire(timeout=60)
        refused = small.post("/v1/completions", model=BASE, **GREEDY)
        assert refused.status == 429
        assert refused.error["code"] == "rate_limit_exceeded"
        gate.open()
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            received += stream.recv(65536)
        assert b"[DONE]" in received
        assert small.post("/v1/completions", model=BASE, **GREEDY).status == 200
        assert loaded(small) == {BASE}


def test_a_model_beyond_the_budget_says_so(server: Running, tmp_path: Path) -> None:
    save_run(tmp_path, CHAT, "sft", (1,), context=64)
    save_run(tmp_path, "large", "sft", (1,), context=4096)
    pool = server.service.pool
    size = pool._size(pool._catalogue.find(CHAT)) / 1e9
    with serving(tmp_path, memory=size) as small:
        answered = small.chat(model="large")
        assert (answered.status, answered.error["code"]) == (503, "model_too_large")
        assert small.chat(max_tokens=1).status == 200


def test_a_damaged_model_is_an_error_and_the_others_answer(tmp_path: Path, caplog: Any) -> None:
    save_run(tmp_path, CHAT, "sft", (1,))
    save_run(tmp_path, "torn", "sft", (1, 2))
    weights = store.file_of(Paths(tmp_path).checkpoints("torn"), 2, "model")
    weights.write_bytes(bytes(reversed(weights.read_bytes())))
    with serving(tmp_path) as server:
        answered = server.chat(model="torn")
        assert (answered.status, answered.error["code"]) == (503, "model_load_failed")
        assert str(tmp_path) not in answered.error["message"]
        assert "torn@2 cannot be loaded" in caplog.text
        assert server.chat(model="torn@1", max_tokens=1).status == 200
        assert server.chat(max_tokens=1).status == 200


def test_a_trainings_new_step_is_served_when_it_appears(tmp_path: Path) -> None:
    save_run(tmp_path, CHAT, "sft", (1, 2))
    directory = Paths(tmp_path).checkpoints(CHAT)
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    for part in ("meta", "model"):
        shutil.move(store.file_of(directory, 2, part), hidden)
    with serving(tmp_path) as server:
        assert server.ask("GET", f"/v1/models/{CHAT}").json["nanochat"]["step"] == 1
        first = server.chat(temperature=0, max_tokens=5).json
        for file in sorted(hidden.iterdir(), reverse=True):
            shutil.move(file, directory)
        second = server.chat(temperature=0, max_tokens=5).json
        assert (first["system_fingerprint"], second["system_fingerprint"]) == (f"{CHAT}@1", f"{CHAT}@2")
        assert first["choices"] != second["choices"]


def test_a_run_trained_again_is_served_with_its_new_weights(server: Running, tmp_path: Path) -> None:
    save_run(tmp_path, CHAT, "sft", (1,))
    with serving(tmp_path, memory=1.5 * one_model(server)) as small:
        first = small.chat(temperature=0, max_tokens=5).json
        shutil.rmtree(Paths(tmp_path).checkpoints(CHAT))
        save_run(tmp_path, CHAT, "sft", (1,), seed=9)
        assert loaded(small) == set()
        second = small.chat(temperature=0, max_tokens=5).json  # the old weights make room
        assert first["system_fingerprint"] == second["system_fingerprint"] == f"{CHAT}@1"
        assert first["choices"] != second["choices"]
        assert loaded(small) == {CHAT}


def test_health_says_when_the_model_is_loading(
    new_server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    open_checkpoint = pool_module.open_checkpoint

    def waiting(*arguments: Any) -> Any:
        assert go_on.wait(60)
        return open_checkpoint(*arguments)

    monkeypatch.setattr(pool_module, "open_checkpoint", waiting)
    with new_server() as server:
        health = server.ask("GET", "/health")
        assert (health.status, health.json) == (503, {"status": "loading"})
        go_on.set()
        server.worker()
        health = server.ask("GET", "/health")
        assert (health.status, health.json) == (200, {"status": "ok"})
