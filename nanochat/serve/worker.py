"""A loaded model and its engine in one thread, fed through a queue. Everything else happens on the event loop.

The loop puts functions into the thread's inbox; the thread runs them between steps of the engine and sends new tokens
back, several steps of a fast model in one call. Requests beyond the engine's rows wait here, so that a stopping server
can refuse those that have not started.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TypeVar

import torch

from nanochat.infer.engine import Engine
from nanochat.infer.request import Event
from nanochat.infer.sampler import SamplingParams
from nanochat.model.gpt import GPT
from nanochat.serve.channel import Channel, pace
from nanochat.serve.faults import ApiFault, busy, crashed, invalid, stopping
from nanochat.serve.observer import Observer

T = TypeVar("T")
HELD_SECONDS = 0.01
"""How long tokens other than an answer's first and last may wait for the next ones."""
_log = logging.getLogger("nanochat.serve")


@dataclass(eq=False)
class _Queued:
    """One answer to one prompt. `request_id` is the engine's, once it runs."""

    index: int
    prompt: Sequence[int]
    params: SamplingParams
    channel: Channel
    reply: int
    arrived: float = field(default_factory=time.perf_counter)
    sent: bool = False
    """Whether its first token has been sent to the loop, which then has `begun` to answer."""
    begun: bool = False
    request_id: int | None = None


class Worker:
    """The thread of one model.

    Args:
        name: for the log.
        open_engine: makes the engine, and the model for direct computations; called in the thread.
        max_rows: samples that run at once.
        max_waiting: samples that may wait.
        buffered: events of each sample that a reader may be behind.
    """

    def __init__(
        self,
        name: str,
        open_engine: Callable[[], tuple[Engine, GPT]],
        observer: Observer,
        *,
        max_rows: int,
        max_waiting: int,
        buffered: int,
    ):
        self._name, self._open_engine, self._observer = name, open_engine, observer
        self._max_rows, self._max_waiting, self._buffered = max_rows, max_waiting, buffered
        self._loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.outstanding = 0
        """Samples and computations accepted and not ended, as the loop knows."""
        self.broken = self._draining = False
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._waiting: deque[_Queued] = deque()
        self._running: dict[int, _Queued] = {}
        self._held: dict[_Queued, list[Event]] = {}
        self._gaps: list[float] = []
        self._last_step: float | None = None
        self._last_sent = 0.0
        self._stopped = False
        self._engine: Engine
        self._model: GPT
        self._torch_threads = torch.get_num_threads()
        self._thread = threading.Thread(target=self._run, name=f"engine {name}", daemon=True)
        self._thread.start()

    # ---- on the event loop

    @property
    def max_seq_len(self) -> int:
        """Tokens of a prompt and its answer together."""
        return self._engine.max_seq_len

    def answer(self, prompts: Sequence[tuple[Sequence[int], SamplingParams]], reply: int = 0) -> Channel:
        """Queue a request's samples; the last `reply` tokens of each prompt are the beginning of its answer.

        Raises ApiFault if the queue is full or the server is stopping.
        """
        self._claim(len(prompts))
        channel = Channel(len(prompts), self._buffered, self._cancel, lambda: pace(self.outstanding))
        queued = [_Queued(index, ids, params, channel, reply) for index, (ids, params) in enumerate(prompts)]
        self._inbox.put(lambda: self._waiting.extend(queued))
        return channel

    async def compute(self, function: Callable[[GPT], T]) -> T:
        """The result of a function of the model, run between two steps. Raises as `answer`, and what it raises."""
        self._claim(1)
        future: asyncio.Future[T] = self._loop.create_future()

        def run() -> None:
            try:
                with torch.inference_mode():
                    result = function(self._model)
            except Exception as error:
                self._post(_settle, future.set_exception, future, error)
            else:
                self._post(_settle, future.set_result, future, result)

        self._inbox.put(run)
        try:
            return await future
        finally:
            self.outstanding -= 1

    def drain(self) -> None:
        """Refuse requests from now on, and those that wait; finish those that run."""
        self._draining = True
        self._inbox.put(self._refuse_waiting)

    async def stop(self) -> None:
        """End the thread, with everything that runs."""
        self._draining = True
        self._inbox.put(self._stop)
        await asyncio.to_thread(self._thread.join)

    def _claim(self, samples: int) -> None:
        if self._draining:
            raise stopping()
        if self.broken:
            raise crashed()
        if self.outstanding + samples > self._max_rows + self._max_waiting:
            raise busy(f"{self.outstanding} answers are running or waiting already: try again later")
        self.outstanding += samples

    def _cancel(self, channel: Channel) -> None:
        self._inbox.put(lambda: self._drop(channel))

    def _arrive(
        self, arrived: dict[_Queued, list[Event]], gaps: Sequence[float], running: int, waiting: int
    ) -> None:
        """The new tokens of some steps, so many seconds after the step before each."""
        now = time.perf_counter()
        for queued, events in arrived.items():
            if not queued.begun:
                queued.begun = True
                self._observer.first(now - queued.arrived)
            queued.channel.push(queued.index, events)
            if events[-1].finished:
                self._ended(queued, events[-1].finished)
        for gap in gaps:
            self._observer.gap(gap)
        self._observer.tokens(sum(map(len, arrived.values())))
        self._observer.depth(running, waiting)

    def _ended(self, queued: _Queued, reason: str) -> None:
        self.outstanding -= 1
        self._observer.ended(reason, time.perf_counter() - queued.arrived)

    def _failed(self, ended: Sequence[_Queued], fault: ApiFault | None, running: int, waiting: int) -> None:
        """Samples that end without being finished: cancelled (no fault) or refused."""
        for queued in ended:
            self._ended(queued, "abort" if fault is None else "error")
            if fault is not None:
                queued.channel.fail(fault)
        self._observer.depth(running, waiting)

    # ---- in the thread

    def _run(self) -> None:
        torch.set_num_threads(self._torch_threads)  # a new thread's default is what any other thread set last
        try:
            self._engine, self._model = self._open_engine()
        except Exception as error:
            self._post(_settle, self.ready.set_exception, self.ready, error)
            return
        self._post(_settle, self.ready.set_result, self.ready, None)
        while not self._stopped:
            try:
                self._take_messages()
                self._step()
            except Exception:
                _log.exception("the engine of %s failed", self._name)
                self._break()
        self._end(list(self._running.values()), stopping())
        self._refuse_waiting()
        del self._engine, self._model

    def _take_messages(self) -> None:
        """Run what is in the inbox; wait for something if there is nothing else to do."""
        if not self._running and not self._waiting:
            self._inbox.get()()
        while not self._inbox.empty():
            self._inbox.get()()

    def _step(self) -> None:
        started: list[_Queued] = []
        while self._waiting and len(self._running) < self._max_rows:
            queued = self._waiting.popleft()
            try:
                queued.request_id = self._engine.submit(queued.prompt, queued.params, queued.reply)
            except ValueError as error:
                self._end([queued], invalid(str(error)))
                continue
            self._running[queued.request_id] = queued
            started.append(queued)
        if started:
            self._post(self._report_started, started, time.perf_counter())
        if not self._running:
            self._last_step = None
            return
        urgent = False
        events = self._engine.step(HELD_SECONDS)
        for event in events:
            queued = self._running[event.request_id]
            self._held.setdefault(queued, []).append(event)
            urgent |= event.finished is not None or not queued.sent
            if event.finished:
                self._forget(queued)
        now = time.perf_counter()
        if events:
            if self._last_step is not None:
                self._gaps.append(now - self._last_step)
            self._last_step = now
        if urgent or now - self._last_sent > HELD_SECONDS:
            self._send_held()

    def _send_held(self) -> None:
        for queued in self._held:
            queued.sent = True
        if self._held:
            self._post(self._arrive, self._held, self._gaps, len(self._running), len(self._waiting))
            self._held, self._gaps = {}, []
            self._last_sent = time.perf_counter()

    def _report_started(self, started: Sequence[_Queued], now: float) -> None:
        for queued in started:
            self._observer.started(now - queued.arrived, len(queued.prompt))

    def _forget(self, queued: _Queued) -> None:
        assert queued.request_id is not None
        del self._running[queued.request_id]

    def _drop(self, channel: Channel) -> None:
        gone = [queued for queued in self._running.values() if queued.channel is channel]
        gone += [queued for queued in self._waiting if queued.channel is channel]
        self._end(gone, None)

    def _end(self, ended: Sequence[_Queued], fault: ApiFault | None) -> None:
        for queued in ended:
            if queued.request_id is not None:
                self._engine.cancel(queued.request_id)
                self._forget(queued)
            elif queued in self._waiting:
                self._waiting.remove(queued)
        if ended:
            self._send_held()
            self._post(self._failed, ended, fault, len(self._running), len(self._waiting))

    def _refuse_waiting(self) -> None:
        self._end(list(self._waiting), stopping())

    def _break(self) -> None:
        """After a failure the engine's state is unknown: answer everything with an error, and take no more."""
        self.broken = True
        ended = [*self._running.values(), *self._waiting]
        self._running.clear()
        self._waiting.clear()
        self._send_held()
        self._post(self._failed, ended, crashed(), 0, 0)

    def _stop(self) -> None:
        self._stopped = True

    def _post(self, function: Callable[..., None], *arguments: object) -> None:
        """Call a function on the event loop, unless that has ended."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)


def _settle(setter: Callable[..., None], future: asyncio.Future[T], *value: object) -> None:
    """Set a future's result, unless whoever waited has been cancelled."""
    if not future.done():
        setter(*value)
