"""Pretraining: train a base model of a given depth on a dataset's text."""

from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

from nanochat import hardware
from nanochat.batches.loader import Loader, pretrain_loader
from nanochat.batches.packing import PRETRAIN_POLICY, Policy
from nanochat.batches.position import DataPosition
from nanochat.checkpoint.meta import CheckpointMeta, Progress
from nanochat.config import to_json
from nanochat.console import amount, say, warn
from nanochat.eval import bpb
from nanochat.eval.batching import BATCH_TOKENS
from nanochat.eval.samples import PROMPTS
from nanochat.infer.native_library import native_library
from nanochat.model.backend import choose_backend
from nanochat.model.gpt import GPT
from nanochat.paths import BASE_RUN
from nanochat.runtime import Runtime
from nanochat.scaling import Dial, RunPlan, make_plan
from nanochat.text.dataset_tokenizer import TokenizedText
from nanochat.text.datasets import Dataset, documents, split_bytes
from nanochat.text.readers import Document
from nanochat.text.shared_dataset import open_shared
from nanochat.tokenizer.tokenizer import Tokenizer
from nanochat.train.machine import device_memory, this_machine
from nanochat.train.minutes import MinutesChoice, Planner, check_minutes, resumed
from nanochat.train.options import PretrainOptions
from nanochat.train.plan import (
    choose_for_minutes,
    describe_duration,
    describe_plan,
)
from nanochat.train.resuming import alone, begin_or_resume, begun_native, on_backend, saved_run
from nanochat.train.session import (
    Session,
    TrainingResult,
    make_trainer,
    training_plan,
)
from nanochat.train.state import Trainer

_MOST_PASSES = 4
"""Up to so many, text that is read again is worth almost as much as new text (arXiv:2305.16264)."""
_SAMPLED_DOCUMENTS, _SAMPLED_CHARACTERS = 200, 2000
"""How many documents, and characters of each, tell the bytes of a token."""


@dataclass(frozen=True)
class PretrainConfig(PretrainOptions, TokenizedText, Dial):
    """Train a base model; --depth decides everything that is not set by hand (see `nanochat plan`)."""

    model_tag: str = BASE_RUN
    """Name of the run and of its folders of checkpoints and metrics."""
    packing: Policy = PRETRAIN_POLICY
    """How documents become rows of the context's length (docs/data.md)."""

    def __post_init__(self) -> None:
        PretrainOptions.__post_init__(self)
        Dial.__post_init__(self)


@alone
def run(config: PretrainConfig, runtime: Runtime) -> TrainingResult:
    """Run pretraining. A bad request fails before the first step."""
    check_minutes(config)
    config = runtime.processes.decide(lambda: config.settled(runtime.paths))
    tokenizer = config.find_tokenizer(runtime.paths)
    runtime.processes.same("the tokenizer", tokenizer.hash)
    directory = runtime.paths.checkpoints(config.model_tag)
    saved, runtime = saved_run(directory, config, runtime)
    plan_of = partial(
        make_plan,
        vocab_size=tokenizer.vocab_size,
        device=runtime.device.type,
        world_size=runtime.processes.world_size,
        memory_limit=device_memory(runtime),
        compute_dtype=runtime.compute_dtype,
    )
    dial = config if saved is None else resumed(config, saved)
    choice = None if dial.minutes is None else _choose(config, plan_of, tokenizer, runtime)
    plan = _plan(plan_of, dial, saved) if choice is None else choice.plan
    backend = choose_backend(
        runtime,
        fp8=config.fp8,
        compile_mode=config.compile,
        training_flops=plan.total_flops,
        begun_native=begun_native(saved),
    )
    if backend.native and runtime.processes.is_main:
        native_library(runtime.paths.code_cache).start(delay_s=0)  # ready when the run is evaluated
    planned = CheckpointMeta(
        stage="pretrain",
        model=plan.model,
        tokenizer=tokenizer.hash,
        plan=training_plan(plan, config, runtime.dtype),
        progress=Progress(),
        config=to_json(config),
        software=hardware.software(),
    )
    meta = on_backend(begin_or_resume(planned, saved, config.model_tag), backend)
    describe_plan(plan, choice)
    if choice is None:
        describe_duration(plan, runtime)
    dataset = open_shared(config, runtime.paths, runtime.processes)
    if runtime.is_main:
        with suppress(ValueError, OSError):  # damaged text is for the loader to judge
            _describe_passes(plan, dataset, tokenizer)
    model = GPT(plan.model, backend)
    model.init_weights(config.seed)
    model.to(runtime.device)
    loader = _open_loader(config, plan, dataset, tokenizer, runtime, meta.progress.position)
    return Session(
        model_tag=config.model_tag,
        options=config,
        trainer=make_trainer(meta, directory, model, tokenizer, loader, runtime),
        meta=meta,
        facts={"plan": to_json(plan), "dataset": dataset.name},
        score=_scorer(tokenizer, dataset, plan.model.max_seq_len, config.eval_bytes, runtime),
        prompts=PROMPTS,
        sample_every=config.sample_every,
    ).execute()


def _describe_passes(plan: RunPlan, dataset: Dataset, tokenizer: Tokenizer) -> None:
    """Print how often the run reads its text, and warn where more of it would be worth much more."""
    first = islice(documents(dataset, "train"), _SAMPLED_DOCUMENTS)
    sample = "".join(document[:_SAMPLED_CHARACTERS] for document in first)
    bytes_per_token = len(sample.encode()) / max(1, len(tokenizer.encode(sample)))
    sizes = {path: path.stat().st_size for path in dataset.train}
    # From one file, because opening hundreds of parquet files would delay the first step.
    largest = max(sizes, key=sizes.__getitem__)
    text_bytes = split_bytes(dataset, "train", [largest]) * sum(sizes.values()) / sizes[largest]
    tokens = text_bytes / bytes_per_token
    passes = plan.tokens / tokens
    say(f"the training text is about {amount(tokens)} tokens; this run reads it {passes:.2g} times")
    if passes > _MOST_PASSES:
        warn(
            f"text that is read more than about {_MOST_PASSES} times teaches less and less: "
            "give more text (docs/data.md), or choose a smaller --depth or --num-iterations"
        )


def _open_loader(
    config: PretrainConfig,
    plan: RunPlan,
    dataset: Dataset,
    tokenizer: Tokenizer,
    runtime: Runtime,
    position: DataPosition | None,
) -> Loader:
    return pretrain_loader(
        dataset,
        tokenizer,
        runtime,
        step_rows=plan.batch_tokens // plan.model.max_seq_len,
        micro_rows=plan.device_batch_size,
        max_seq_len=plan.model.max_seq_len,
        policy=config.packing,
        seed=config.seed,
        position=position,
    )


def _plan(plan_of: Planner, dial: Dial, saved: CheckpointMeta | None) -> RunPlan:
    """The plan; of a resumed run with its micro-batches as long as they fit, because others add up to other bits."""
    if saved is not None and dial.device_batch_size is None:
        with suppress(ValueError):
            return plan_of(replace(dial, device_batch_size=saved.plan.device_batch_size))
    return plan_of(dial)


def _choose(
    config: PretrainConfig, plan_of: Planner, tokenizer: Tokenizer, runtime: Runtime
) -> MinutesChoice:
    """Depth and steps for --minutes.

    Before anything is timed the first batch is read, so that text is tokenised, and the decoder is compiled, whose
    compiler would take turns with the first steps.
    """
    dataset = open_shared(config, runtime.paths, runtime.processes)
    any_plan = plan_of(replace(config, minutes=None))
    loader = _open_loader(config, any_plan, dataset, tokenizer, runtime, None)
    with closing(loader), runtime.processes.together("reading the data"):
        next(loader)
        if runtime.device.type == "cpu" and runtime.is_main:
            native_library(runtime.paths.code_cache).wait()
        held_out = map(Document, documents(dataset, "val"))
        length = any_plan.model.max_seq_len
        windows = bpb.cut(tokenizer, held_out, max_seq_len=length, max_bytes=config.eval_bytes)
    eval_tokens = int(windows.scored.sum())
    return choose_for_minutes(config, plan_of, runtime, config, eval_tokens, this_machine(runtime))


def _scorer(
    tokenizer: Tokenizer, dataset: Dataset, max_seq_len: int, max_bytes: int, runtime: Runtime
) -> Callable[[Trainer], dict[str, float]]:
    """A function that scores the first validation documents, cut into windows once."""
    windows: list[bpb.Windows] = []

    def score(trainer: Trainer) -> dict[str, float]:
        if not windows:
            with runtime.processes.together("reading validation text"):
                held_out = map(Document, documents(dataset, "val"))
                windows.append(bpb.cut(tokenizer, held_out, max_seq_len=max_seq_len, max_bytes=max_bytes))
        batch_tokens = BATCH_TOKENS[runtime.device.type]
        return {"val_bpb": bpb.score(trainer.model, windows[0], runtime, batch_tokens=batch_tokens).bpb}

    return score
