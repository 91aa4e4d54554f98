"""Pretraining: a base model of the given depth from a dataset's text."""

from dataclasses import dataclass
from typing import Any

from nanochat import hardware
from nanochat.batches.loader import pretrain_loader
from nanochat.batches.packing import PRETRAIN_POLICY, Policy
from nanochat.checkpoint import store
from nanochat.config import to_json
from nanochat.console import say
from nanochat.eval import bpb
from nanochat.eval.batching import BATCH_TOKENS
from nanochat.eval.samples import PROMPTS
from nanochat.model.backend import Backend, choose_backend
from nanochat.model.gpt import GPT
from nanochat.runtime import Runtime
from nanochat.scaling import Dial, RunPlan, make_plan
from nanochat.text.dataset_tokenizer import TokenizedText
from nanochat.text.datasets import Dataset, documents
from nanochat.tokenizer.tokenizer import Tokenizer
from nanochat.train.plan import describe_duration, describe_plan, device_memory
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


@dataclass(frozen=True)
class PretrainConfig(TrainingOptions, TokenizedText, Dial):
    """Train a base model; --depth decides everything that is not set by hand (see `nanochat plan`)."""

    model_tag: str = "baserun"
    """Name of the run: checkpoints and metrics lie under it."""
    packing: Policy = PRETRAIN_POLICY


def run(config: PretrainConfig, runtime: Runtime) -> TrainingResult:
    """The stage. Everything that can be wrong with the request is found before the first step."""
    config = runtime.broadcast_object(config.settled(runtime.paths))
    tokenizer = config.find_tokenizer(runtime.paths)
    plan = make_plan(
        config,
        tokenizer.vocab_size,
        runtime.device.type,
        runtime.world_size,
        device_memory(runtime),
        runtime.compute_dtype,
    )
    backend = choose_backend(
        runtime, fp8=config.fp8, compile_mode=config.compile, training_flops=plan.total_flops
    )
    directory = runtime.paths.checkpoints(config.model_tag)
    step = resume_step(directory, config)
    progress = Progress()
    course = _course(config, plan, tokenizer)
    if step is not None:
        meta = store.load_meta(directory, step)
        check_same(meta["course"], course, "the run's")
        progress = progress_of(meta)
        say(f"resuming {config.model_tag} at step {step} of {plan.total_steps}")
    describe_plan(plan)
    describe_duration(plan, runtime)
    # Every process waits for what is still to come by itself (a collective would time out), then all take
    # the same files.
    dataset = runtime.broadcast_object(config.open(runtime.paths))
    trainer = _trainer(config, plan, tokenizer, dataset, runtime, backend, progress)
    if step is not None:
        restore(directory, step, trainer.model, trainer.optimizer)
    return Session(
        stage="pretrain",
        model_tag=config.model_tag,
        options=config,
        trainer=trainer,
        micro_rows=plan.device_batch_size,
        flops_per_token=plan.flops_per_token,
        meta={
            "stage": "pretrain",
            "config": to_json(config),
            "course": course,
            "model": to_json(plan.model),
            "plan": to_json(plan),
            "software": hardware.software(),
        },
        facts={"plan": to_json(plan), "dataset": dataset.name},
        score=_scorer(tokenizer, dataset, plan, config.eval_bytes, runtime),
        prompts=PROMPTS,
    ).execute()


def _course(config: PretrainConfig, plan: RunPlan, tokenizer: Tokenizer) -> dict[str, Any]:
    """What must not change when a run is resumed; the number of processes and micro-batches may."""
    settled = to_json(plan)
    for free in ("device_batch_size", "accumulation", "world_size", "memory_bytes"):
        del settled[free]
    return {**settled, "seed": config.seed, "tokenizer": tokenizer.hash, "fp8": config.fp8}


def _trainer(
    config: PretrainConfig,
    plan: RunPlan,
    tokenizer: Tokenizer,
    dataset: Dataset,
    runtime: Runtime,
    backend: Backend,
    progress: Progress,
) -> Trainer:
    model = GPT(plan.model, backend)
    model.init_weights(config.seed)
    model.to(runtime.device)
    loader = pretrain_loader(
        dataset,
        tokenizer,
        runtime,
        batch_rows=plan.device_batch_size,
        max_seq_len=plan.model.max_seq_len,
        policy=config.packing,
        seed=config.seed,
        state=progress.loader,
    )
    optimizer = make_optimizer(model, plan.rates, runtime, muon_per_head=plan.muon_per_head)
    return Trainer(model, tokenizer, optimizer, plan.schedule, loader, plan.accumulation, runtime, progress)


def _scorer(tokenizer: Tokenizer, dataset: Dataset, plan: RunPlan, max_bytes: int, runtime: Runtime):
    """Scores the first validation documents, cut once."""
    windows: list[bpb.Windows] = []

    def score(trainer: Trainer) -> dict[str, float]:
        if not windows:
            max_seq_len = plan.model.max_seq_len
            windows.append(
                bpb.cut(tokenizer, documents(dataset, "val"), max_seq_len=max_seq_len, max_bytes=max_bytes)
            )
        batch_tokens = BATCH_TOKENS[runtime.device.type]
        return {"val_bpb": bpb.score(trainer.model, windows[0], runtime, batch_tokens=batch_tokens).bpb}

    return score
