"""One optimiser step: gradients over micro-batches and processes, then the update, or none if they are not finite."""

import time
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nanochat.batches.loader import Batch
from nanochat.console import say
from nanochat.model.loss import IGNORE
from nanochat.runtime import Runtime
from nanochat.train.state import Trainer

_BUCKET_ELEMENTS = 16 * 1024 * 1024


@dataclass(frozen=True)
class StepResult:
    """Figures of one step, the same on every process."""

    loss: float
    """Mean nats a supervised token, over all processes."""
    grad_norm: float
    skipped: bool
    tokens: int
    seconds: float
    lr: float
    """Multiplier of the learning rates."""


def train_step(trainer: Trainer) -> StepResult:
    """Draw the step's micro-batches, step the optimiser, move `trainer.progress` on."""
    began = time.perf_counter()
    progress, runtime, schedule = trainer.progress, trainer.runtime, trainer.schedule
    batches: list[Batch] = []
    position = progress.position
    for _ in range(trainer.accumulation):
        batch, position = next(trainer.loader)
        batches.append(batch)

    nats = accumulate_gradients(trainer, batches)
    gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
    if runtime.world_size > 1:
        sum_over_processes(gradients)
    grad_norm = nn.utils.get_total_norm(gradients)
    loss, norm = torch.stack((nats, grad_norm.to(nats.dtype))).tolist()  # the step's one wait for the device
    skipped = not (_finite(loss) and _finite(norm))
    lr = schedule.lr(progress.step)
    if not skipped:
        trainer.optimizer.step(lr, schedule.momentum(progress.step), schedule.weight_decay(progress.step))
    trainer.optimizer.zero_grad()

    tokens = sum(batch.inputs_BT.numel() for batch in batches) * runtime.world_size
    seconds = time.perf_counter() - began
    trainer.progress = progress.after_step(tokens, skipped, seconds, position)
    return StepResult(loss, norm, skipped, tokens, seconds, lr)


def accumulate_gradients(trainer: Trainer, batches: list[Batch]) -> Tensor:
    """Backward through every micro-batch; returns the mean loss over all processes, gradients are this process's.

    The loss is divided by the supervised tokens of all micro-batches and processes together, so that neither the
    split into micro-batches nor the number of processes changes it.
    """
    runtime = trainer.runtime
    count = torch.stack([(batch.targets_BT != IGNORE).sum() for batch in batches]).sum()
    count = runtime.all_reduce_sum(count).clamp_min(1)
    total = torch.zeros((), device=runtime.device)
    for batch in batches:
        nats, _ = trainer.model.loss(trainer.model(batch.inputs_BT), batch.targets_BT)
        loss = nats / count
        loss.backward()
        total += loss.detach()
    return runtime.all_reduce_sum(total)


def warm_up(trainer: Trainer, rows: int) -> float:
    """Compile by one forward and backward on a micro-batch of the run's shape, without effect; returns the seconds."""
    began = time.perf_counter()
    model, device = trainer.model, trainer.runtime.device
    ids = torch.zeros(rows, model.config.max_seq_len, dtype=torch.long, device=device)
    nats, _ = model.loss(model(ids), ids)
    nats.backward()
    trainer.optimizer.zero_grad()
    seconds = time.perf_counter() - began
    say(f"compiled in {seconds:.0f} s")
    return seconds


@torch.no_grad()
def sum_over_processes(gradients: list[Tensor]) -> None:
    """Sum each gradient over the processes, in place, many small ones in one message."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        bucket.append(gradient)
        if sum(g.numel() for g in bucket) >= _BUCKET_ELEMENTS:
            _sum_bucket(bucket)
            bucket = []
    if bucket:
        _sum_bucket(bucket)


def _sum_bucket(bucket: list[Tensor]) -> None:
    flat = torch.cat([gradient.flatten() for gradient in bucket])
    dist.all_reduce(flat)
    for gradient, summed in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
        gradient.copy_(summed.view_as(gradient))


def _finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")


def agree(runtime: Runtime, flag: bool) -> bool:
    """True on every process if it is true on any."""
    if runtime.world_size == 1:
        return flag
    return bool(runtime.all_reduce_sum(torch.tensor(float(flag), device=runtime.device)).item())
