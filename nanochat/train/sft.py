"""Supervised fine-tuning: a base model learns to converse, in pretraining's loop with another loader."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from nanochat.batches.loader import sft_loader
from nanochat.bounds import require_positive, require_share
from nanochat.checkpoint import store
from nanochat.checkpoint.loading import OpenCheckpoint
from nanochat.checkpoint.meta import CheckpointMeta, TrainingPlan
from nanochat.console import counted, say
from nanochat.conversations.mixtures import absolute_mixture, load_conversations, show_mixture
from nanochat.conversations.rendering import RenderedConversations, render_conversations
from nanochat.eval.conversation_loss import mean_loss
from nanochat.model.backend import choose_backend
from nanochat.model.cost import flops_per_token
from nanochat.model.gpt import GPT
from nanochat.optim.schedule import Schedule
from nanochat.paths import BASE_RUN, CHAT_RUN
from nanochat.runtime import Runtime
from nanochat.scaling import largest_share, micro_batch_rows, rows_per_step
from nanochat.tokenizer.tokenizer import Tokenizer
from nanochat.train.options import FixedShapeOptions
from nanochat.train.resuming import alone, begin_or_resume, begun_native, on_backend, saved_run
from nanochat.train.session import Session, TrainingResult, make_trainer
from nanochat.train.state import Trainer
from nanochat.train.successor import described, open_source, planned_from

_EVAL_BATCH_TOKENS = 16_384


@dataclass(frozen=True)
class SftConfig(FixedShapeOptions):
    """Teach a base model to converse and to use its tools."""

    from_tag: str = BASE_RUN
    """Run to start from: its model tag, or the path of its checkpoints; RUN@STEP for an older step."""
    mixture: str = "builtin"
    """Conversations: names joined by +, *n for n times (*0.5: half of it), or a .jsonl, also in OpenAI's or
    ShareGPT's format; see docs/data.md. The default needs no network, whatever the base was trained on."""
    model_tag: str = CHAT_RUN
    """Name of the new run and of its folders of checkpoints and metrics."""
    epochs: float = 1.0
    """Times that the mixture is gone through."""
    num_iterations: int | None = None
    """Optimiser steps, instead of epochs."""
    total_batch_size: int | None = None
    """Tokens per step; default: as in the run it starts from."""
    device_batch_size: int | None = None
    """Rows per micro-batch on one device; default: as in the run it starts from."""
    lr_fraction: float = 0.8
    """Learning rates as a fraction of the peak rates of the starting run (of the fine-tuning before it, if that is an
    rl or dpo run)."""
    warmdown: float = 0.5
    """Final fraction of the run, over which the learning rate falls to zero."""
    document_mask: bool = False
    """Conversations do not depend on earlier ones in the same row."""
    warm_optimizer: bool = False
    """Start from the optimiser's state of the run it starts from, instead of an empty one."""
    eval_conversations: int = 500
    """Held-out conversations scored at each evaluation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "epochs", "num_iterations", "total_batch_size", "device_batch_size")
        require_positive(self, "lr_fraction", "eval_conversations")
        require_share(self, "warmdown")


@alone
def run(config: SftConfig, runtime: Runtime) -> TrainingResult:
    """Run fine-tuning. Raises ValueError for an unusable source run, mixture or batch size."""
    config = replace(config, mixture=absolute_mixture(config.mixture))
    directory = runtime.paths.checkpoints(config.model_tag)
    saved, runtime = saved_run(directory, config, runtime)
    source = open_source(config.from_tag, saved, runtime)
    max_seq_len = source.config.max_seq_len
    rows, micro_rows = _batch(config, source.meta.plan, max_seq_len, runtime.processes.world_size)
    conversations = load_conversations(config.mixture, runtime.paths, split="train", seed=config.seed)
    loader = sft_loader(
        render_conversations(conversations, source.tokenizer, max_seq_len, runtime),
        source.tokenizer,
        runtime,
        step_rows=rows,
        micro_rows=micro_rows,
        max_seq_len=max_seq_len,
        seed=config.seed,
        position=saved.progress.position if saved else None,
    )
    assert loader.rows_per_epoch is not None
    epoch_steps = math.ceil(loader.rows_per_epoch / rows)
    plan = _training_plan(
        config, source.meta.plan, rows * max_seq_len, micro_rows, epoch_steps, runtime.dtype
    )
    planned = planned_from(source, "sft", config.from_tag, plan, config)
    meta = begin_or_resume(planned, saved, config.model_tag)
    model = _model(config, source, plan, saved, runtime)
    meta = on_backend(meta, model.backend)
    if runtime.is_main:
        show_mixture(conversations)
    say(
        f"{counted(len(conversations), 'conversation')} in {counted(loader.rows_per_epoch, 'row')} of "
        f"{max_seq_len} tokens; {counted(plan.total_steps, 'step')} of "
        f"{counted(plan.batch_tokens // max_seq_len, 'row')}"
    )
    trainer = make_trainer(meta, directory, model, source.tokenizer, loader, runtime)
    if config.warm_optimizer and not meta.step:
        trainer.optimizer.load_state_dict(store.load_optimizer_state(source.directory, source.step))
    return Session(
        model_tag=config.model_tag,
        options=config,
        trainer=trainer,
        meta=meta,
        facts={"plan": described(meta), "dataset": config.mixture},
        score=_scorer(config, source.tokenizer, max_seq_len, runtime),
    ).execute()


def _training_plan(
    config: SftConfig, source: TrainingPlan, batch_tokens: int, micro_rows: int, epoch_steps: int, dtype: str
) -> TrainingPlan:
    """This stage's plan; options that are not set follow the source run."""
    total_steps = config.num_iterations or max(1, round(config.epochs * epoch_steps))
    return TrainingPlan(
        schedule=Schedule(
            total_steps=total_steps,
            warmup_steps=0,
            warmdown_fraction=config.warmdown,
            final_lr=0.0,
            momentum_warmup_steps=min(300, total_steps // 10),
        ),
        rates=source.successor_basis.rates.scaled(config.lr_fraction),
        muon_per_head=source.muon_per_head,
        batch_tokens=batch_tokens,
        device_batch_size=micro_rows,
        seed=config.seed,
        dtype=dtype,
        fp8=config.fp8,
        document_mask=config.document_mask,
    )


def _model(
    config: SftConfig,
    source: OpenCheckpoint,
    plan: TrainingPlan,
    saved: CheckpointMeta | None,
    runtime: Runtime,
) -> GPT:
    """The source run's model on this run's backend, in training mode."""
    flops = flops_per_token(source.config) * plan.tokens
    backend = choose_backend(
        runtime,
        fp8=config.fp8,
        compile_mode=config.compile,
        training_flops=flops,
        begun_native=begun_native(saved),
    )
    if source.meta.plan.fp8 and not config.fp8:
        say(f"{config.from_tag} was trained with --fp8 and this run is not: add --fp8 to keep it")
    return source.load(backend).train()


def _batch(config: SftConfig, source: TrainingPlan, max_seq_len: int, world_size: int) -> tuple[int, int]:
    """(rows per step over all processes, maximum rows per micro-batch). Raises ValueError if they do not divide."""
    rows = rows_per_step(
        max_seq_len, config.total_batch_size or source.successor_basis.batch_tokens, world_size
    )
    share = largest_share(rows, world_size)
    if config.device_batch_size is None:
        return rows, micro_batch_rows(share, source.device_batch_size)
    return rows, min(share, config.device_batch_size)


def _scorer(
    config: SftConfig, tokenizer: Tokenizer, max_seq_len: int, runtime: Runtime
) -> Callable[[Trainer], dict[str, float]]:
    """A function that scores the first held-out conversations, rendered once."""

    @cache
    def rendered() -> RenderedConversations:
        held_out = load_conversations(config.mixture, runtime.paths, split="val", seed=config.seed)
        return render_conversations(held_out[: config.eval_conversations], tokenizer, max_seq_len)

    def score(trainer: Trainer) -> dict[str, float]:
        with runtime.processes.together("reading held-out conversations"):
            conversations = rendered()
        return {"val_loss": mean_loss(trainer.model, conversations, runtime, batch_tokens=_EVAL_BATCH_TOKENS)}

    return score
