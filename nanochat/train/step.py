"""One optimiser step: gradients over micro-batches and processes, then the update, skipped if they are not finite."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from nanochat.batches.loader import Batch
from nanochat.console import say
from nanochat.model.document_mask import document_starts
from nanochat.model.loss import IGNORE
from nanochat.train.state import Trainer


@dataclass(frozen=True)
class StepResult:
    """Figures of one step, the same on every process."""

    loss: float
    """Mean nats per supervised token, over all processes."""
    grad_norm: float
    skipped: bool
    tokens: int
    seconds: float
    lr: float
    """Multiplier of the learning rates."""
    shown: Mapping[str, str] = field(default_factory=dict)
    """More figures for the progress line."""


def train_step(trainer: Trainer) -> StepResult:
    """Draw the step's micro-batches, step the optimiser and advance `trainer.progress`."""
    began = time.perf_counter()
    loader = trainer.loader
    assert loader is not None, "this stage has a step of its own"
    with trainer.runtime.processes.together("reading the data"):
        batches, position = next(loader)
    update = apply_gradients(trainer, accumulate_gradients(trainer, batches))
    tokens, seconds = loader.step_tokens, time.perf_counter() - began
    trainer.progress = trainer.progress.after_step(tokens, update.skipped, seconds, position)
    return StepResult(update.loss, update.grad_norm, update.skipped, tokens, seconds, update.lr)


@dataclass(frozen=True)
class Update:
    """What became of an optimiser step; fields as in StepResult."""

    loss: float
    grad_norm: float
    skipped: bool
    lr: float


def apply_gradients(trainer: Trainer, nats: Tensor) -> Update:
    """Sum the gradients over processes and step the optimiser, unless they or the loss `nats` are not finite."""
    step, schedule = trainer.progress.step, trainer.schedule
    gradients = [_gradient(parameter) for parameter in trainer.model.parameters()]
    trainer.runtime.processes.sum_each(gradients)
    grad_norm = nn.utils.get_total_norm(gradients)
    loss, norm = torch.stack((nats, grad_norm.to(nats.dtype))).tolist()  # the step's only wait for the device
    skipped = not (math.isfinite(loss) and math.isfinite(norm))
    lr = schedule.lr(step)
    if not skipped:
        trainer.optimizer.step(lr, schedule.momentum(step), schedule.weight_decay(step))
    trainer.optimizer.zero_grad()
    return Update(loss, norm, skipped, lr)


def _gradient(parameter: nn.Parameter) -> Tensor:
    """The parameter's gradient; zeros on a process that had no samples, so that all processes sum alike."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def accumulate_gradients(trainer: Trainer, batches: list[Batch]) -> Tensor:
    """Backward through every micro-batch. Returns the mean loss over all processes; gradients stay this process's.

    The loss is divided by the supervised tokens of all micro-batches and processes together, so that it
    depends neither on the split into micro-batches nor on the number of processes.
    """
    processes = trainer.runtime.processes
    count = torch.stack([(batch.targets_BT != IGNORE).sum() for batch in batches]).sum()
    count = processes.sum(count).clamp_min(1)
    total = torch.zeros((), device=trainer.runtime.device)
    with processes.together("the step"):
        for batch in batches:
            hidden_BTC = trainer.model(batch.inputs_BT, _starts(trainer, batch.inputs_BT))
            nats, _ = trainer.model.loss(hidden_BTC, batch.targets_BT)
            loss = nats / count
            loss.backward()
            total += loss.detach()
    return processes.sum(total)


def _starts(trainer: Trainer, ids_BT: Tensor) -> Tensor | None:
    """Where documents begin, if the run keeps those of a row apart."""
    return document_starts(ids_BT, trainer.tokenizer.bos) if trainer.document_mask else None


def warm_up(trainer: Trainer, rows: int) -> float:
    """Compile with one forward and backward pass on a dummy micro-batch of `rows` rows; returns the seconds taken."""
    began = time.perf_counter()
    model, device = trainer.model, trainer.runtime.device
    ids = torch.zeros(rows, model.config.max_seq_len, dtype=torch.long, device=device)
    nats, _ = model.loss(model(ids, _starts(trainer, ids)), ids)
    nats.backward()
    trainer.optimizer.zero_grad()
    seconds = time.perf_counter() - began
    say(f"compiled in {seconds:.0f} s")
    return seconds
