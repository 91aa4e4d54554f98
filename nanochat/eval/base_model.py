"""`nanochat eval base`: bits per byte on training and validation text, samples, and CORE."""

import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

from nanochat.checkpoint.loading import LoadedModel, load_model
from nanochat.config import from_json, to_json
from nanochat.console import say, table
from nanochat.eval.batching import BATCH_TOKENS
from nanochat.eval.bpb import BpbResult, bits_per_byte
from nanochat.eval.bundle import fetch_bundle
from nanochat.eval.core import GPT2_CORE, CoreResult, evaluate_core
from nanochat.eval.options import require_positive
from nanochat.eval.samples import PROMPTS, Sample, sample
from nanochat.flags import ModelTag, WandbRun
from nanochat.infer.engine import Engine
from nanochat.metrics import Metrics, open_metrics
from nanochat.metrics_rows import ConfigRow, DoneRow, EvalRow, SampleRow, TasksRow
from nanochat.runtime import Runtime
from nanochat.text.datasets import Dataset, Split, TextSource, documents
from nanochat.text.readers import TEXT_COLUMN
from nanochat.text.shared_dataset import open_shared

STAGE = "eval-base"


@dataclass(frozen=True)
class EvalBaseConfig:
    """Score a base model."""

    model_tag: ModelTag = "baserun"
    """The run to evaluate: its model tag, or the path of its checkpoints."""
    step: int | None = None
    """Which checkpoint; default: the newest."""
    dataset: str | None = None
    """Text to score; default: the model's training dataset."""
    text_column: str = TEXT_COLUMN
    """The parquet column or jsonl field that holds the text."""
    val_path: str | None = None
    """Validation text; default: what the dataset holds out."""
    max_bytes: int = 500_000
    """Bytes of text to score per split, from its first documents."""
    max_seq_len: int | None = None
    """Tokens per window; default: the model's context."""
    core: Literal["auto", "on", "off"] = "auto"
    """CORE: auto runs it if its bundle is present, on downloads the bundle."""
    max_per_task: int | None = None
    """Items per CORE task; default: all."""
    batch_tokens: int | None = None
    """Tokens per forward pass; default: depends on the device."""
    wandb_run: WandbRun = None
    """Name of the Weights & Biases run; default: WANDB_RUN."""
    device: str = "auto"
    dtype: str = "auto"

    def __post_init__(self) -> None:
        require_positive(self, "max_bytes", "max_seq_len", "max_per_task", "batch_tokens")


@dataclass(frozen=True)
class EvalBaseResult:
    """`core` is None if CORE was not requested or its bundle is missing."""

    model_tag: str
    step: int
    dataset: str
    train: BpbResult
    val: BpbResult
    samples: tuple[Sample, ...]
    core: CoreResult | None


def run(config: EvalBaseConfig, runtime: Runtime) -> EvalBaseResult:
    """Run the stage. Raises ValueError for a missing run or dataset, or a context longer than the model's."""
    began = time.monotonic()
    loaded = load_model(config.model_tag, runtime, config.step)
    longest = loaded.model.config.max_seq_len
    if config.max_seq_len is not None and config.max_seq_len > longest:
        raise ValueError(
            f"--max-seq-len {config.max_seq_len} is longer than the model's context of {longest}"
        )
    metrics_path = runtime.paths.metrics(loaded.directory.resolve().name)
    dataset = open_shared(_source(config, loaded), runtime.paths, runtime.processes)
    with runtime.processes.together("fetching the CORE bundle"):
        if runtime.is_main:
            _bundle(config, runtime)
    result = _evaluate(config, loaded, dataset, runtime)
    with open_metrics(
        metrics_path,
        STAGE,
        wandb_run=config.wandb_run,
        config=to_json(config),
        enabled=runtime.is_main,
        resume=True,
    ) as metrics:
        metrics.log(ConfigRow(to_json(config)))
        _log(metrics, result)
        metrics.log(DoneRow(step=result.step, wall_s=time.monotonic() - began))
    _show(result)
    return result


def _evaluate(
    config: EvalBaseConfig, loaded: LoadedModel, dataset: Dataset, runtime: Runtime
) -> EvalBaseResult:
    model, tokenizer = loaded.model, loaded.tokenizer
    batch_tokens = config.batch_tokens or BATCH_TOKENS[runtime.device.type]

    def bpb(split: Split) -> BpbResult:
        return bits_per_byte(
            model,
            tokenizer,
            documents(dataset, split),
            runtime,
            max_seq_len=config.max_seq_len or model.config.max_seq_len,
            batch_tokens=batch_tokens,
            max_bytes=config.max_bytes,
        )

    def core() -> CoreResult | None:
        bundle = _bundle(config, runtime)
        if bundle is None:
            return None
        return evaluate_core(
            model, tokenizer, bundle, runtime, max_per_task=config.max_per_task, batch_tokens=batch_tokens
        )

    with runtime.processes.together("sampling"):
        engine = Engine(model, tokenizer, max_rows=len(PROMPTS), tools=None)
        samples = tuple(sample(engine, tokenizer))
    return EvalBaseResult(
        model_tag=loaded.directory.resolve().name,
        step=loaded.step,
        dataset=dataset.name,
        train=bpb("train"),
        val=bpb("val"),
        samples=samples,
        core=core(),
    )


def _source(config: EvalBaseConfig, loaded: LoadedModel) -> TextSource:
    """The requested text, else the model's training dataset with the options it was trained with."""
    trained = loaded.meta.config
    if config.dataset is not None:
        source = TextSource(config.dataset, config.text_column)
    elif "dataset" in trained:
        kept = {field.name: trained[field.name] for field in fields(TextSource) if field.name in trained}
        source = replace(from_json(TextSource, kept), need_shards=None)
    else:
        raise ValueError(f"{config.model_tag} was not trained on a dataset of text: name one with --dataset")
    return replace(source, val_path=config.val_path or source.val_path)


def _bundle(config: EvalBaseConfig, runtime: Runtime) -> Path | None:
    """The CORE bundle's directory, or None if CORE is off or the bundle is missing."""
    if config.core == "on":
        return fetch_bundle(runtime.paths)
    there = config.core == "auto" and runtime.paths.eval_bundle.is_dir()
    return runtime.paths.eval_bundle if there else None


def _log(metrics: Metrics, result: EvalBaseResult) -> None:
    core = result.core
    metrics.log(
        EvalRow(
            step=result.step,
            val_bpb=result.val.bpb,
            train_bpb=result.train.bpb,
            core=core.core if core else None,
            core_partial=core.partial if core else None,
        )
    )
    for text in result.samples:
        metrics.log(SampleRow(result.step, text.prompt, text.text))
    if core:
        metrics.log(
            TasksRow(
                step=result.step,
                scores={task.label: task.accuracy for task in core.tasks},
                counts={task.label: task.n for task in core.tasks},
                baselines={task.label: task.baseline for task in core.tasks},
            )
        )


def _show(result: EvalBaseResult) -> None:
    for text in result.samples:
        say(f"  {text.prompt}|{text.text}")
    table(
        f"{result.model_tag} at step {result.step} on {result.dataset}",
        ("text", "bits per byte", "bytes", "documents"),
        [
            (name, f"{bpb.bpb:.4f}", f"{bpb.bytes:,}", f"{bpb.documents:,}")
            for name, bpb in (("training", result.train), ("validation", result.val))
        ],
    )
    core = result.core
    if core is None:
        return
    table(
        f"CORE {core.core:.4f}{' (partial)' if core.partial else ''}; GPT-2 has {GPT2_CORE:.4f}",
        ("task", "items", "accuracy", "guessing", "centred"),
        [
            (task.label, f"{task.n:,}", f"{task.accuracy:.1%}", f"{task.baseline:.1%}", f"{task.centred:.4f}")
            for task in core.tasks
        ],
    )
    if core.missing:
        say(f"missing from the bundle, so this CORE is partial: {', '.join(core.missing)}")
