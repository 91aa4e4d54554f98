"""What a run plans that starts from another run's checkpoint: fine-tuning, reinforcement, preferences."""

from typing import Any

from nanochat import hardware
from nanochat.checkpoint.loading import OpenCheckpoint, open_checkpoint, split_step
from nanochat.checkpoint.meta import CheckpointMeta, Progress, SourceRun, TrainingPlan
from nanochat.config import to_json
from nanochat.model.cost import parameter_counts
from nanochat.optim.groups import LearningRates
from nanochat.optim.schedule import Schedule
from nanochat.runtime import Runtime

_MOMENTUM = 0.9
"""Of Muon in `policy_plan`: a policy changes too fast for the longer average of pretraining."""


def open_source(from_tag: str, saved: CheckpointMeta | None, runtime: Runtime) -> OpenCheckpoint:
    """The checkpoint that a run starts from: `RUN@STEP`, or of `RUN` the newest, or of a resumed run its own.

    Raises as `open_checkpoint`.
    """
    run, step = split_step(from_tag)
    begun = None if saved is None else saved.source
    if step is None and begun is not None and begun.model_tag == run:
        step = begun.step
    return open_checkpoint(run, runtime, step)


def planned_from(
    source: OpenCheckpoint, stage: str, from_tag: str, plan: TrainingPlan, config: Any
) -> CheckpointMeta:
    """The new run before its first step: the source's shape and tokenizer, its own plan."""
    return CheckpointMeta(
        stage=stage,
        model=source.config,
        tokenizer=source.tokenizer.hash,
        plan=plan,
        progress=Progress(),
        source=SourceRun(split_step(from_tag)[0], source.step, source.meta.files["model"].sha256),
        config=to_json(config),
        software=hardware.software(),
    )


def policy_plan(
    source: OpenCheckpoint,
    *,
    steps: int,
    warmdown: float,
    rates: LearningRates,
    batch_tokens: int,
    device_batch_size: int | None,
    seed: int,
    dtype: str,
) -> TrainingPlan:
    """The plan of a run that improves a finished chat model: no warm-up, rates falling to zero, constant momentum.

    device_batch_size: None for the source's.
    """
    return TrainingPlan(
        schedule=Schedule(
            total_steps=steps,
            warmup_steps=0,
            warmdown_fraction=warmdown,
            final_lr=0.0,
            momentum_warmup_steps=0,
            momentum_start=_MOMENTUM,
            momentum_peak=_MOMENTUM,
            momentum_final=_MOMENTUM,
        ),
        rates=rates,
        muon_per_head=source.meta.plan.muon_per_head,
        batch_tokens=batch_tokens,
        device_batch_size=device_batch_size or source.meta.plan.device_batch_size,
        seed=seed,
        dtype=dtype,
        offers=source.meta.plan.successor_basis,
    )


def described(meta: CheckpointMeta) -> dict[str, Any]:
    """The plan for the metrics, with the model's shape and parameter counts as in a pretraining plan."""
    return {"model": to_json(meta.model), "parameters": parameter_counts(meta.model), **to_json(meta.plan)}
