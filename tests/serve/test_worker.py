"""A worker's report of its steps, with an engine whose steps are written down and a clock that they advance."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from nanochat.infer.request import Event, FinishReason
from nanochat.infer.sampler import SamplingParams
from nanochat.serve import worker as module
from nanochat.serve.observer import Observer
from nanochat.serve.worker import Worker


class WrittenEngine:
    """Steps of (seconds, number of tokens); the last one ends the answer."""

    def __init__(self, steps: list[tuple[float, int]]):
        self.now, self._steps = 0.0, steps

    def submit(self, *_: Any) -> int:
        return 7

    def step(self, budget_s: float) -> list[Event]:
        seconds, tokens = self._steps.pop(0)
        self.now += seconds
        finished: FinishReason | None = None if self._steps else "length"
        return [Event(7, 0, False, finished, "text", "x") for _ in range(tokens)]


def test_a_step_without_tokens_belongs_to_the_gap_before_the_next_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine: Any = WrittenEngine(
        [(5.0, 0), (1.0, 1), (0.25, 0), (0.5, 1), (0.125, 1)]
    )  # empty: parts of prompts
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: engine.now))
    observer = Mock(spec=Observer)

    async def run() -> None:
        worker = Worker("written", lambda: (engine, engine), observer, max_rows=1, max_waiting=1, buffered=9)
        await worker.ready
        async for _ in worker.answer([([1], SamplingParams())]):
            pass
        await worker.stop()

    asyncio.run(run())
    assert [call.args[0] for call in observer.gap.call_args_list] == [0.75, 0.125]


def test_an_engine_computes_with_the_threads_of_the_server_whatever_other_threads_set() -> None:
    """`torch.set_num_threads` also sets what threads that begin later start with."""
    seen: list[int] = []

    def open_engine() -> tuple[Any, Any]:
        seen.append(torch.get_num_threads())
        return Mock(), Mock()

    async def run() -> None:
        worker = Worker("any", open_engine, Mock(spec=Observer), max_rows=1, max_waiting=1, buffered=1)
        await worker.ready
        await worker.stop()

    own = torch.get_num_threads()
    with ThreadPoolExecutor(1) as other:
        other.submit(torch.set_num_threads, own + 3).result()
        asyncio.run(run())
        other.submit(torch.set_num_threads, own).result()
    assert seen == [own]
