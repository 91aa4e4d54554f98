"""What a training run is made of, and what of it a checkpoint must hold."""

from dataclasses import asdict, dataclass, field
from typing import Any

from nanochat.batches.loader import Loader
from nanochat.model.gpt import GPT
from nanochat.optim.muon_adamw import MuonAdamW
from nanochat.optim.schedule import Schedule
from nanochat.runtime import Runtime
from nanochat.tokenizer.tokenizer import Tokenizer


@dataclass
class Progress:
    """How far a run is; plain values, saved with every checkpoint."""

    step: int = 0
    """Optimiser steps taken, skipped ones included."""
    tokens: int = 0
    skipped_steps: int = 0
    """Steps whose loss or gradients were not finite."""
    elapsed_s: float = 0.0
    """Time spent in steps, over all the runs that made up this one."""
    loader: dict[str, Any] | None = None
    """Position in the data, after the last step."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Trainer:
    """A model in training, with everything its loop and hooks need."""

    model: GPT
    tokenizer: Tokenizer
    optimizer: MuonAdamW
    schedule: Schedule
    loader: Loader
    accumulation: int
    """Micro-batches of this process a step."""
    runtime: Runtime
    progress: Progress = field(default_factory=Progress)

    @property
    def finished(self) -> bool:
        return self.progress.step >= self.schedule.total_steps
