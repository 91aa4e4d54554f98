"""The model under evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from nanochat.checkpoint.loading import OpenCheckpoint
from nanochat.infer.engine import Engine
from nanochat.infer.frozen import WeightsName
from nanochat.model.backend import choose_backend
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.runtime import Runtime
from nanochat.tokenizer.tokenizer import Tokenizer

ENGINE_ROWS = {"cuda": 64, "mps": 16, "cpu": 32}
"""Answers that an evaluation generates at once, by kind of device."""


@dataclass(frozen=True)
class Subject:
    """A model whose weights are loaded when first needed: kept results need none.

    `load` returns it in evaluation mode on its device, uncompiled since batches differ in shape. All processes load
    at the same time, outside `Processes.together`.
    """

    config: GPTConfig
    tokenizer: Tokenizer
    load: Callable[[], GPT]
    max_rows: int = 16
    """Answers generated at once."""
    weights: WeightsName = "fp32"
    """How the engine stores matrices."""

    @cached_property
    def model(self) -> GPT:
        """The model."""
        return self.load()

    @cached_property
    def engine(self) -> Engine:
        """An engine over the model, with tools, that decodes in compiled code from the first answer on."""
        engine = Engine(self.model, self.tokenizer, max_rows=self.max_rows, weights=self.weights)
        engine.settle()
        return engine


def subject_of(
    checkpoint: OpenCheckpoint, runtime: Runtime, max_rows: int = 16, weights: WeightsName = "fp32"
) -> Subject:
    """The model of a checkpoint, on this process's backend."""

    def load() -> GPT:
        return checkpoint.load(choose_backend(runtime)).eval()

    return Subject(checkpoint.config, checkpoint.tokenizer, load, max_rows, weights)
