"""Supervised fine-tuning: a base model learns to converse, by the same loop on another loader."""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from nanochat import hardware
from nanochat.batches.loader import sft_loader
from nanochat.checkpoint import store
from nanochat.checkpoint.loading import open_checkpoint
from nanochat.config import from_json, to_json
from nanochat.console import say
from nanochat.conversations.mixtures import absolute_mixture, load_conversations
from nanochat.conversations.rendering import RenderedConversations, render_conversations
from nanochat.eval.conversation_loss import mean_loss
from nanochat.model.backend import choose_backend
from nanochat.model.cost import flops_per_token
from nanochat.optim.groups import LearningRates
from nanochat.optim.schedule import Schedule
from nanochat.runtime import Runtime
from nanochat.scaling import rows_per_device
from nanochat.tokenizer.tokenizer import Tokenizer
from nanochat.train.session import (
    Session,
    TrainingOptions,
    TrainingResult,
    check_same,
    make_optimizer,
    progress_of,
    restore,
    resume_step,
)
from nanochat.train.state import Progress, Trainer

_EVAL_BATCH_TOKENS = 16_384


@dataclass(frozen=True)
class SftConfig(TrainingOptions):
    """Teach a base model to converse and to use its tools."""

    from_tag: str = "baserun"
    """Run to start from: its model tag, or the path of its checkpoints."""
    mixture: str = "builtin"
    """Conversations: names joined by + (*n for n times), or a .jsonl; see nanochat.conversations.sources. The default
    needs no network, whatever the base was trained on."""
    model_tag: str = "sft"
    epochs: float = 1.0
    num_iterations: int | None = None
    """Optimiser steps, instead of epochs."""
    total_batch_size: int | None = None
    """Tokens a step; default: the base model's."""
    device_batch_size: int | None = None
    """Rows a micro-batch on one device; default: the base model's."""
    lr_fraction: float = 0.8
    """Of the base model's peak learning rates."""
    warmdown: float = 0.5
    """The last share of the run, over which the learning rate falls to zero."""
    eval_conversations: int = 500
    """Held-out conversations scored at each evaluation."""


def run(config: SftConfig, runtime: Runtime) -> TrainingResult:
    """The stage."""
    config = replace(config, mixture=absolute_mixture(config.mixture))
    base = open_checkpoint(config.from_tag, runtime)
    base_plan = base.meta["plan"]
    max_seq_len = base.config.max_seq_len
    rows, accumulation = _batch(config, base_plan, max_seq_len, runtime.world_size)
    directory = runtime.paths.checkpoints(config.model_tag)
    step = resume_step(directory, config)
    meta = store.load_meta(directory, step) if step is not None else None
    progress = progress_of(meta) if meta else Progress()
    conversations = load_conversations(config.mixture, runtime.paths, split="train", seed=config.seed)
    loader = sft_loader(
        conversations,
        base.tokenizer,
        runtime,
        batch_rows=rows,
        max_seq_len=max_seq_len,
        seed=config.seed,
        state=progress.loader,
    )
    assert loader.steps_per_epoch is not None
    total_steps = config.num_iterations or max(
        1, round(config.epochs * loader.steps_per_epoch / accumulation)
    )
    schedule = Schedule(
        total_steps=total_steps,
        warmup_steps=0,
        warmdown_fraction=config.warmdown,
        final_lr=0.0,
        momentum_warmup_steps=min(300, total_steps // 10),
    )
    rates = from_json(LearningRates, base_plan["rates"]).scaled(config.lr_fraction)
    course = {
        "mixture": config.mixture,
        "seed": config.seed,
        "rates": to_json(rates),
        "schedule": to_json(schedule),
        "batch_rows": rows * accumulation * runtime.world_size,
        "base": {name: facts["sha256"] for name, facts in base.meta["files"].items()},
        "fp8": config.fp8,
    }
    if meta:
        check_same({"fp8": False, **meta["course"]}, course, "the run's")
        say(f"resuming {config.model_tag} at step {step} of {total_steps}")
    flops = flops_per_token(base.config)
    backend = choose_backend(
        runtime,
        fp8=config.fp8,
        compile_mode=config.compile,
        training_flops=flops * total_steps * rows * accumulation * runtime.world_size * max_seq_len,
    )
    if base.meta["config"].get("fp8") and not config.fp8:
        say(
            f"{config.from_tag} was trained with --fp8, this run multiplies without it: add --fp8 to keep fp8"
        )
    model = base.load(backend).train()
    optimizer = make_optimizer(model, rates, runtime, muon_per_head=base_plan["muon_per_head"])
    if step is not None:
        restore(directory, step, model, optimizer)
    trainer = Trainer(model, base.tokenizer, optimizer, schedule, loader, accumulation, runtime, progress)
    say(
        f"{len(conversations):,} conversations in {loader.rows_per_epoch:,} rows of {max_seq_len} tokens; "
        f"{total_steps:,} steps of {rows * accumulation * runtime.world_size} rows"
    )
    return Session(
        stage="sft",
        model_tag=config.model_tag,
        options=config,
        trainer=trainer,
        micro_rows=rows,
        flops_per_token=flops,
        meta={
            "stage": "sft",
            "config": to_json(config),
            "course": course,
            "model": to_json(model.config),
            "plan": base_plan,
            "base": {"run": config.from_tag, "step": base.step},
            "software": hardware.software(),
        },
        facts={"plan": base_plan, "dataset": config.mixture},
        score=_scorer(config, base.tokenizer, max_seq_len, runtime),
        prompts=(),
    ).execute()


def _batch(
    config: SftConfig, base_plan: dict[str, Any], max_seq_len: int, world_size: int
) -> tuple[int, int]:
    """(rows of a micro-batch, micro-batches a step) of each process. Raises ValueError for what cannot divide."""
    tokens = config.total_batch_size or base_plan["batch_tokens"]
    per_device = rows_per_device(max_seq_len, tokens, world_size)
    if config.device_batch_size is None:
        limit = min(per_device, base_plan["device_batch_size"])
        rows = next(rows for rows in range(limit, 0, -1) if per_device % rows == 0)
        return rows, per_device // rows
    if config.device_batch_size < 1 or per_device % config.device_batch_size:
        raise ValueError(
            f"--device-batch-size {config.device_batch_size} does not divide the {per_device} rows of a step"
        )
    return config.device_batch_size, per_device // config.device_batch_size


def _scorer(config: SftConfig, tokenizer: Tokenizer, max_seq_len: int, runtime: Runtime):
    """Scores the first held-out conversations, rendered once."""

    @cache
    def rendered() -> RenderedConversations:
        held_out = load_conversations(config.mixture, runtime.paths, split="val", seed=config.seed)
        return render_conversations(held_out[: config.eval_conversations], tokenizer, max_seq_len)

    def score(trainer: Trainer) -> dict[str, float]:
        return {"val_loss": mean_loss(trainer.model, rendered(), runtime, batch_tokens=_EVAL_BATCH_TOKENS)}

    return score
