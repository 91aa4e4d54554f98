"""What the parts of a pretraining run cost on this machine, measured in a few seconds on random tokens.

The steps are real ones, in the run's own dtype and backend and on all of its processes; nothing of them remains.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nanochat.batches.loader import Batch
from nanochat.checkpoint import store
from nanochat.checkpoint.meta import CheckpointMeta, Progress
from nanochat.console import say
from nanochat.eval.batching import BATCH_TOKENS
from nanochat.eval.samples import GREEDY, PROMPTS
from nanochat.model.backend import choose_backend
from nanochat.model.gpt import GPT
from nanochat.runtime import Runtime
from nanochat.scaling import RunPlan, largest_share, rows_per_step
from nanochat.train.minutes import Costs
from nanochat.train.options import FixedShapeOptions
from nanochat.train.session import (
    CHECKPOINT_BYTES_PER_PARAMETER,
    make_trainer,
    training_plan,
)
from nanochat.train.state import Trainer
from nanochat.train.step import accumulate_gradients, apply_gradients

_MOST_SECONDS = 4.0
_SHARE = 0.05
"""Steps of one model are measured for this share of the run, but no longer than _MOST_SECONDS."""
_FEWEST_STEPS = 3
_MOST_MICRO_BATCHES = 4
_PROBE_BYTES = 32 * 2**20


def measure_costs(
    plan: RunPlan, runtime: Runtime, options: FixedShapeOptions, *, minutes: float, eval_tokens: float
) -> Costs:
    """The costs of a run of `plan` on the processes of `runtime`, as process 0 measures them.

    minutes: of the whole run. eval_tokens: tokens of one evaluation.
    """
    trainer = _trainer(plan, options, runtime)
    seconds = min(60 * minutes * _SHARE, _MOST_SECONDS)
    first_s, step_s = _time_steps(trainer, plan, seconds)
    evaluation_s, samples_s = _time_inference(trainer, eval_tokens / runtime.processes.world_size)
    save_s = _time_saving(trainer, plan)
    costs = runtime.processes.decide(
        lambda: Costs(max(0.0, first_s - step_s), step_s, evaluation_s, save_s, samples_s)
    )
    say(
        f"measured a model of depth {plan.depth} with {plan.batch_tokens:,} tokens a step: "
        f"{plan.batch_tokens / costs.step_s:,.0f} tok/s, {costs.step_s:.3g} s per step"
    )
    return costs


def _trainer(plan: RunPlan, options: FixedShapeOptions, runtime: Runtime) -> Trainer:
    """A trainer of random weights without data."""
    backend = choose_backend(
        runtime, fp8=options.fp8, compile_mode=options.compile, training_flops=plan.total_flops
    )
    model = GPT(plan.model, backend)
    model.init_weights(options.seed)
    model.to(runtime.device)
    # Neither documents nor samples are read, so that there is no need of a tokenizer.
    return make_trainer(_meta(plan, options, runtime), Path(), model, None, None, runtime)  # type: ignore[arg-type]


def _meta(plan: RunPlan, options: FixedShapeOptions, runtime: Runtime) -> CheckpointMeta:
    kept = training_plan(plan, options, runtime.dtype)
    return CheckpointMeta("pretrain", plan.model, tokenizer="", plan=kept, progress=Progress())


def _random_ids(trainer: Trainer, rows: int, length: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(trainer.model.config.vocab_size, (rows, length), generator=draw)
    return ids.to(trainer.runtime.device)


def _time_steps(trainer: Trainer, plan: RunPlan, seconds: float) -> tuple[float, float]:
    """(seconds of the first step, of one of those that follow)."""
    runtime, length = trainer.runtime, plan.model.max_seq_len
    ids = _random_ids(trainer, plan.device_batch_size, length + 1)
    count = min(plan.accumulation, _MOST_MICRO_BATCHES)
    batches = [Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())] * count
    share = largest_share(rows_per_step(length, plan.batch_tokens, plan.world_size), plan.world_size)
    repeats = share / (count * plan.device_batch_size)
    nats = torch.zeros(())

    def gradients() -> None:
        nonlocal nats
        nats = accumulate_gradients(trainer, batches)

    def step() -> tuple[float, float]:
        return _timed(runtime, gradients), _timed(runtime, lambda: apply_gradients(trainer, nats))

    first = sum(step())
    times: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    # Process 0 decides, so that all processes take the same steps.
    while runtime.processes.decide(lambda: len(times) < _FEWEST_STEPS or time.perf_counter() < end):
        times.append(step())
    # Means, because other work on the machine will slow the run down as often.
    micro, update = (statistics.fmean(each) for each in zip(*times, strict=True))
    return first, micro * repeats + update


def _time_inference(trainer: Trainer, eval_tokens: float) -> tuple[float, float]:
    """(seconds of an evaluation of `eval_tokens` tokens, of the samples)."""
    runtime, model, length = trainer.runtime, trainer.model, trainer.model.config.max_seq_len
    rows = max(1, BATCH_TOKENS[runtime.device.type] // length)
    ids, row = _random_ids(trainer, rows, length), _random_ids(trainer, len(PROMPTS), 1)
    model.eval()
    with runtime.processes.together("measuring"), torch.inference_mode():
        _timed(runtime, lambda: model.token_losses(model(ids), ids))
        score_s = _timed(runtime, lambda: model.token_losses(model(ids), ids))
        token_s = min(_timed(runtime, lambda: model(row)) for _ in range(_FEWEST_STEPS))
    return score_s * eval_tokens / ids.numel(), token_s * GREEDY.max_new_tokens


def _time_saving(trainer: Trainer, plan: RunPlan) -> float:
    """Seconds of a checkpoint, from one of at most _PROBE_BYTES beside those of the runs."""
    runtime, needed = trainer.runtime, sum(plan.parameters.values()) * CHECKPOINT_BYTES_PER_PARAMETER
    written = min(needed, _PROBE_BYTES)
    seconds = 0.0
    with runtime.processes.together("measuring"):
        if runtime.is_main:
            runtime.paths.base.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=runtime.paths.base, prefix="measuring-") as folder:
                meta = _meta(plan, FixedShapeOptions(), runtime)
                probe = {"probe": torch.zeros(written // 4)}
                seconds = _timed(runtime, lambda: store.save(Path(folder), meta, probe))
    return seconds * needed / written


def _timed(runtime: Runtime, work: Callable[[], Any]) -> float:
    """Seconds that `work` and what it started on the device take."""
    runtime.synchronize()
    began = time.perf_counter()
    work()
    runtime.synchronize()
    return time.perf_counter() - began
