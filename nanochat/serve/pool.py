"""The models in memory: loaded when a request names them, the least recently used idle one unloaded to make room."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

from nanochat.checkpoint.loading import load_run_tokenizer, open_checkpoint
from nanochat.errors import EnvironmentFault
from nanochat.infer.cache import row_bytes
from nanochat.infer.engine import Engine
from nanochat.infer.frozen import WeightsName
from nanochat.model.backend import choose_backend
from nanochat.model.gpt import GPT
from nanochat.runtime import Runtime
from nanochat.serve.catalogue import Catalogue, ModelCard
from nanochat.serve.faults import ApiFault, busy, stopping
from nanochat.serve.observer import Observer
from nanochat.serve.worker import Worker
from nanochat.tokenizer.tokenizer import Tokenizer

T = TypeVar("T")
_log = logging.getLogger("nanochat.serve")


@dataclass(frozen=True)
class PoolSettings:
    """How models are kept and run."""

    memory_bytes: int
    """For all models together."""
    max_rows: int
    max_waiting: int
    buffered_events: int
    weights: WeightsName


@dataclass(frozen=True)
class ServedModel:
    """A loaded model in the hands of a request."""

    card: ModelCard
    tokenizer: Tokenizer
    worker: Worker


@dataclass(eq=False)
class _Slot:
    card: ModelCard
    size: int
    worker: Worker
    tokenizer: Tokenizer
    users: int = 0
    used: int = 0
    """A count of uses: the larger, the more recent."""


class ModelPool:
    """Models by name. All methods are called on the event loop."""

    def __init__(
        self,
        runtime: Runtime,
        catalogue: Catalogue,
        settings: PoolSettings,
        observe: Callable[[str], Observer],
    ):
        self._runtime, self._catalogue, self._settings = runtime, catalogue, settings
        self._observe = observe
        self._slots: dict[tuple[str, str], _Slot] = {}
        self._making_room = asyncio.Lock()
        self._uses = 0
        self._draining = False
        self._preloaded = False
        self.load_fault: BaseException | None = None
        """Why the model to be served first could not be loaded."""
        self._preloading: asyncio.Task[None] | None = None

    @property
    def device(self) -> str:
        """The device that models run on."""
        return str(self._runtime.device)

    def loaded(self, card: ModelCard) -> bool:
        """Whether a model is in memory and ready."""
        slot = self._slots.get(card.weights)
        return slot is not None and slot.worker.ready.done()

    @asynccontextmanager
    async def using(self, name: str) -> AsyncIterator[ServedModel]:
        """A model, which stays loaded within the block.

        Raises ApiFault if it is unknown, cannot be loaded, or the others are busy and leave no room.
        """
        card = await self.card(name)
        slot = await self._slot(card)
        slot.users += 1
        try:
            await self._ready(slot)
            yield ServedModel(card, slot.tokenizer, slot.worker)
        finally:
            slot.users -= 1
            self._uses += 1
            slot.used = self._uses

    async def _slot(self, card: ModelCard) -> _Slot:
        async with self._making_room:
            if self._draining:
                raise stopping()
            slot = self._slots.get(card.weights)
            if slot is not None and slot.worker.broken:
                await self._unload(slot)
                slot = None
            if slot is None:
                size = self._size(card)
                await self._make_room(card, size)
                tokenizer = await _loading(card, asyncio.to_thread(load_run_tokenizer, card.directory))
                slot = self._slots[card.weights] = _Slot(card, size, self._worker(card), tokenizer)
            return slot

    async def _ready(self, slot: _Slot) -> None:
        try:
            await _loading(slot.card, asyncio.shield(slot.worker.ready))
        except ApiFault:
            if self._slots.get(slot.card.weights) is slot:
                del self._slots[slot.card.weights]
            raise

    def _worker(self, card: ModelCard) -> Worker:
        def open_engine() -> tuple[Engine, GPT]:
            checkpoint = open_checkpoint(card.directory, self._runtime, card.step)
            model = checkpoint.load(choose_backend(self._runtime)).eval()
            settings = self._settings
            engine = Engine(model, checkpoint.tokenizer, max_rows=settings.max_rows, weights=settings.weights)
            return engine, model

        return Worker(
            card.checkpoint,
            open_engine,
            self._observe(card.run),
            max_rows=self._settings.max_rows,
            max_waiting=self._settings.max_waiting,
            buffered=self._settings.buffered_events,
        )

    def _size(self, card: ModelCard) -> int:
        """Estimated bytes of a loaded model: its weights, the engine's copy of them, and the cache."""
        dtype = self._runtime.compute_dtype
        rows = self._settings.max_rows * row_bytes(card.meta.model, card.meta.model.max_seq_len, dtype)
        return card.parameters * (4 + dtype.itemsize) + rows

    async def _make_room(self, card: ModelCard, size: int) -> None:
        budget = self._settings.memory_bytes
        if size > budget:
            raise ApiFault(
                503,
                f"{card.id} needs {size / 1e9:.2f} GB and the server may use {budget / 1e9:.2f} GB (--memory)",
                param="model",
                code="model_too_large",
            )
        while sum(slot.size for slot in self._slots.values()) + size > budget:
            idle = [slot for slot in self._slots.values() if not slot.users and not slot.worker.outstanding]
            if not idle:
                raise busy(f"the models in memory are busy and leave no room for {card.id}: try again later")
            await self._unload(min(idle, key=lambda slot: slot.used))

    async def _unload(self, slot: _Slot) -> None:
        del self._slots[slot.card.weights]
        await slot.worker.stop()

    async def cards(self) -> list[ModelCard]:
        """All models that can be named."""
        return await asyncio.to_thread(self._catalogue.cards)

    async def card(self, name: str) -> ModelCard:
        """A model by its id. Raises ApiFault for an unknown one."""
        known = self._catalogue.recall(name)
        return known if known is not None else await asyncio.to_thread(self._catalogue.find, name)

    def preload(self, name: str) -> None:
        """Load a model in the background."""

        async def load() -> None:
            try:
                async with self.using(name):
                    self._preloaded = True
            except ApiFault as fault:
                if not self._draining:
                    self.load_fault = fault.__cause__ or fault

        self._preloading = asyncio.create_task(load())

    def state(self) -> Literal["ok", "loading", "stopping"]:
        """Whether requests are answered."""
        if self._draining:
            return "stopping"
        return "ok" if self._preloaded else "loading"

    def drain(self) -> None:
        """Refuse new requests and those that wait; let the running ones finish."""
        self._draining = True
        for slot in self._slots.values():
            slot.worker.drain()

    async def close(self) -> None:
        """Unload everything."""
        self._draining = True
        if self._preloading is not None:
            await self._preloading
        async with self._making_room:
            for slot in list(self._slots.values()):
                await self._unload(slot)


async def _loading(card: ModelCard, reading: Awaitable[T]) -> T:
    """Await a part of loading a model. Raises ApiFault if it fails, and logs why."""
    try:
        return await reading
    except (EnvironmentFault, ValueError, RuntimeError, MemoryError, OSError) as error:
        _log.error("%s cannot be loaded: %s", card.checkpoint, error)
        raise ApiFault(
            503,
            f"{card.id} cannot be loaded; the server's log says why",
            param="model",
            code="model_load_failed",
        ) from error
