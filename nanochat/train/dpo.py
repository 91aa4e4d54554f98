"""Preference tuning (DPO): a chat model learns which of two answers is better, in the house's loop."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from nanochat.batches.position import DataIdentity, check_identity
from nanochat.bounds import require_positive, require_share
from nanochat.checkpoint.loading import OpenCheckpoint
from nanochat.checkpoint.meta import CheckpointMeta
from nanochat.console import counted, say
from nanochat.eval.batching import length_batches, pad_right
from nanochat.model.backend import choose_backend
from nanochat.model.cost import flops_per_token
from nanochat.model.gpt import GPT
from nanochat.model.loss import IGNORE
from nanochat.paths import CHAT_RUN
from nanochat.runtime import Runtime
from nanochat.text.own_files import absolute
from nanochat.train.objective import preference_loss
from nanochat.train.options import TrainingOptions
from nanochat.train.preferences import PreferencePair, read_pairs, split_pairs
from nanochat.train.resuming import (
    alone,
    begin_or_resume,
    begun_native,
    on_backend,
    require_same_flags,
    saved_run,
)
from nanochat.train.session import Session, TrainingResult, make_trainer
from nanochat.train.shuffled import Shuffled
from nanochat.train.state import Trainer
from nanochat.train.step import StepResult, apply_gradients
from nanochat.train.successor import described, open_source, planned_from, policy_plan

_ROUNDING = 1e-5
"""A smaller margin is none: before the first step, all are rounding errors."""


@dataclass(frozen=True)
class DpoConfig(TrainingOptions):
    """Tune a chat model on pairs of a chosen and a rejected answer (docs/rl.md)."""

    pairs: str = "pairs.jsonl"
    """A .jsonl of prompt, chosen and rejected (nanochat/train/preferences.py); every 20th pair is held out."""
    from_tag: str = CHAT_RUN
    """Run to start from, which is also the reference: its model tag, or the path of its checkpoints; RUN@STEP for an
    older step."""
    model_tag: str = "dpo"
    """Name of the new run and of its folders of checkpoints and metrics."""
    epochs: float = 1.0
    """Times that the pairs are gone through."""
    num_iterations: int | None = None
    """Optimiser steps, instead of epochs."""
    pairs_per_step: int = 32
    """Pairs in a step, over all processes."""
    beta: float = 0.1
    """How strongly the model is held to the reference: a margin of m nats counts as beta · m."""
    lr_fraction: float = 0.02
    """Learning rates as a fraction of the peak rates of the starting run (of the fine-tuning before it, if that is an
    rl or dpo run)."""
    warmdown: float = 1.0
    """Final fraction of the run, over which the learning rate falls to zero."""
    device_batch_size: int | None = None
    """Rows of the context's length per micro-batch; default: as in the run it starts from."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "epochs", "num_iterations", "pairs_per_step", "beta")
        require_positive(self, "lr_fraction", "device_batch_size")
        require_share(self, "warmdown")


@alone
def run(config: DpoConfig, runtime: Runtime) -> TrainingResult:
    """Run preference tuning. Raises ValueError for unusable pairs or flags."""
    config = replace(config, pairs=absolute(config.pairs))
    directory = runtime.paths.checkpoints(config.model_tag)
    saved, runtime = saved_run(directory, config, runtime)
    source = open_source(config.from_tag, saved, runtime)
    context = source.config.max_seq_len
    require_same_flags(saved, config, "beta")
    training, held_out = split_pairs(read_pairs(Path(config.pairs), source.tokenizer, context))
    meta = begin_or_resume(_planned(config, source, len(training), runtime.dtype), saved, config.model_tag)
    identity = DataIdentity(
        max_seq_len=context,
        policy="pairs",
        seed=config.seed,
        tokenizer=source.tokenizer.hash,
        data=hashlib.sha256(Path(config.pairs).read_bytes()).hexdigest()[:16],
    )
    check_identity(identity, meta.progress.position)
    runtime.processes.same("the file of pairs", identity.data)
    say(
        f"{counted(len(training), 'pair')} for training, {len(held_out):,} held out; "
        f"{counted(meta.plan.total_steps, 'step')}"
    )
    flops = flops_per_token(source.config) * meta.plan.tokens
    backend = choose_backend(runtime, training_flops=flops, begun_native=begun_native(saved))
    meta = on_backend(meta, backend)
    model, reference = source.load(backend).train(), source.load(backend).eval()
    tokens = meta.plan.device_batch_size * context
    return Session(
        model_tag=config.model_tag,
        options=config,
        trainer=make_trainer(meta, directory, model, source.tokenizer, None, runtime),
        meta=meta,
        facts={"plan": described(meta), "dataset": config.pairs},
        score=_scorer(held_out, reference, config.beta, tokens, runtime),
        step=PreferenceStep(
            Shuffled.resumed(training, config.seed, meta.progress.position),
            reference,
            config.beta,
            config.pairs_per_step,
            tokens,
            identity,
        ),
        score_first=True,
    ).execute()


@dataclass
class PreferenceStep:
    """The step of `nanochat dpo`, called with the trainer."""

    pairs: Shuffled[PreferencePair]
    reference: GPT
    beta: float
    pairs_per_step: int
    micro_tokens: int
    """Most tokens of a micro-batch, padding included."""
    identity: DataIdentity

    def __call__(self, trainer: Trainer) -> StepResult:
        """Learn from the next pairs and advance `trainer.progress`."""
        began, processes, progress = time.perf_counter(), trainer.runtime.processes, trainer.progress
        drawn = [next(self.pairs)[2] for _ in range(self.pairs_per_step)]
        mine = processes.share(len(drawn))
        own = drawn[mine.start : mine.stop]
        total = torch.zeros(2, device=trainer.runtime.device)
        with processes.together("the gradients"):
            for lot in _micro_batches(own, self.micro_tokens):
                losses_B, margins_B = losses(trainer.model, self.reference, lot, self.beta)
                (losses_B.sum() / len(drawn)).backward()
                total += torch.stack((losses_B.detach().sum(), (margins_B > _ROUNDING).sum())) / len(drawn)
        loss, preferred = processes.sum(total)
        update = apply_gradients(trainer, loss)
        tokens = sum(len(pair.chosen) + len(pair.rejected) - 2 for pair in drawn)
        seconds = time.perf_counter() - began
        position = self.pairs.position_after(progress.position, self.identity, len(drawn))
        trainer.progress = progress.after_step(tokens, update.skipped, seconds, position)
        shown = {"preferred": f"{preferred.item():.0%}"}
        return StepResult(update.loss, update.grad_norm, update.skipped, tokens, seconds, update.lr, shown)


def losses(model: GPT, reference: GPT, pairs: Sequence[PreferencePair], beta: float) -> tuple[Tensor, Tensor]:
    """(loss, margin) of each pair."""
    ids = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    masks = [pair.chosen_mask for pair in pairs] + [pair.rejected_mask for pair in pairs]
    device = model.head.weight.device
    inputs_BT = pad_right([row[:-1] for row in ids], 0, device)
    learned = [
        [token if learn else IGNORE for token, learn in zip(row[1:], mask[1:], strict=True)]
        for row, mask in zip(ids, masks, strict=True)
    ]
    targets_BT = pad_right(learned, IGNORE, device)
    with torch.no_grad():
        reference_B = -reference.token_losses(reference(inputs_BT), targets_BT).sum(dim=1)
    logprobs_B = model.token_logprobs(model(inputs_BT), targets_BT).sum(dim=1)
    chosen_B, rejected_B = logprobs_B.chunk(2)
    before_chosen_B, before_rejected_B = reference_B.chunk(2)
    return preference_loss(chosen_B, rejected_B, before_chosen_B, before_rejected_B, beta)


def _micro_batches(pairs: Sequence[PreferencePair], tokens: int) -> list[list[PreferencePair]]:
    return [[pairs[i] for i in lot] for lot in length_batches([2 * pair.length for pair in pairs], tokens)]


def _scorer(
    pairs: Sequence[PreferencePair], reference: GPT, beta: float, tokens: int, runtime: Runtime
) -> Callable[[Trainer], dict[str, float]]:
    """A function that scores held-out pairs."""

    @torch.no_grad()
    def score(trainer: Trainer) -> dict[str, float]:
        processes = runtime.processes
        mine = processes.share(len(pairs))
        total = [0.0, 0.0]
        with processes.together("scoring held-out pairs"):
            for lot in _micro_batches(pairs[mine.start : mine.stop], tokens):
                losses_B, margins_B = losses(trainer.model, reference, lot, beta)
                total[0] += losses_B.sum().item()
                total[1] += (margins_B > _ROUNDING).sum().item()
        loss, preferred = (sum(part) / len(pairs) for part in zip(*processes.gather(total), strict=True))
        return {"val_loss": loss, "preferred": preferred}

    return score


def _planned(config: DpoConfig, source: OpenCheckpoint, training: int, dtype: str) -> CheckpointMeta:
    plan = policy_plan(
        source,
        steps=config.num_iterations or max(1, round(config.epochs * training / config.pairs_per_step)),
        warmdown=config.warmdown,
        rates=replace(source.meta.plan.successor_basis.rates.scaled(config.lr_fraction), weight_decay=0.0),
        batch_tokens=2 * config.pairs_per_step * source.config.max_seq_len,
        device_batch_size=config.device_batch_size,
        seed=config.seed,
        dtype=dtype,
    )
    return planned_from(source, "dpo", config.from_tag, plan, config)
