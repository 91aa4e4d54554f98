"""`nanochat eval base`: bits per byte on training and validation text, samples, and CORE."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain
from pathlib import Path
from typing import Literal

from nanochat.bounds import require_positive
from nanochat.checkpoint.loading import OpenCheckpoint, open_checkpoint
from nanochat.config import from_json, to_json
from nanochat.eval.base_result import EvalBaseResult, TextScore, csv_lines, show
from nanochat.eval.batching import BATCH_TOKENS
from nanochat.eval.bpb import BpbResult, bits_per_byte, first_documents
from nanochat.eval.bundle_files import fetch_bundle, own_bundle
from nanochat.eval.core import CoreResult, evaluate_core
from nanochat.eval.result_cache import cache_beside, sha256_of_values
from nanochat.eval.samples import PROMPTS, SampleTexts, sample
from nanochat.eval.score_csv import write_scores
from nanochat.eval.subject import Subject, subject_of
from nanochat.flags import ModelTag, Tracker, WandbRun, default_track
from nanochat.infer.engine import Engine
from nanochat.metrics import Metrics, open_metrics
from nanochat.metrics_rows import ConfigRow, DoneRow, EvalRow, SampleRow, TasksRow
from nanochat.paths import BASE_RUN, expanded
from nanochat.runtime import Runtime
from nanochat.text.datasets import Dataset, TextSource, documents
from nanochat.text.own_files import find_files
from nanochat.text.readers import SOURCE_COLUMN, TEXT_COLUMN, Document, read_with_sources
from nanochat.text.shared_dataset import open_shared

STAGE = "eval-base"


@dataclass(frozen=True)
class EvalBaseConfig:
    """Score a base model."""

    model_tag: ModelTag = BASE_RUN
    """The run to evaluate: its model tag, or the path of its checkpoints; RUN@STEP is --step too."""
    step: int | None = None
    """Which checkpoint; default: the newest."""
    dataset: str | None = None
    """Text to score; default: the model's training dataset."""
    text_column: str = TEXT_COLUMN
    """The parquet column or jsonl field that holds the text."""
    val_path: str | None = None
    """Validation text; default: what the dataset holds out."""
    bpb: tuple[str, ...] = ()
    """More texts to score: files, folders or patterns."""
    source_column: str = SOURCE_COLUMN
    """In texts of --bpb, the column or field that names a document's source; each source is scored apart too."""
    max_bytes: int = 500_000
    """Bytes to score of each split and text, from its first documents."""
    max_seq_len: int | None = None
    """Tokens per window; default: the model's context."""
    stride: int | None = None
    """Tokens scored per window, the rest being context; default: all of them, so that windows do not overlap."""
    core: Literal["auto", "on", "off"] = "auto"
    """CORE: auto runs it if its bundle is present, on downloads the bundle."""
    bundle: str | None = None
    """Another bundle for CORE: a folder, or a zip archive of one."""
    max_per_task: int | None = None
    """Items per CORE task; default: all."""
    batch_tokens: int | None = None
    """Tokens per forward pass; default: depends on the device."""
    fresh: bool = False
    """Compute everything again, also results that are kept beside the checkpoint."""
    wandb_run: WandbRun = None
    """As in `nanochat pretrain`, and so is --track."""
    track: tuple[Tracker, ...] = field(default_factory=default_track)
    device: str = "auto"
    dtype: str = "auto"

    def __post_init__(self) -> None:
        require_positive(self, "max_bytes", "max_seq_len", "stride", "max_per_task", "batch_tokens")


def run(config: EvalBaseConfig, runtime: Runtime) -> EvalBaseResult:
    """Run the stage. Raises ValueError for a missing run or dataset, or a context longer than the model's."""
    began = time.monotonic()
    checkpoint = open_checkpoint(config.model_tag, runtime, config.step)
    longest = checkpoint.config.max_seq_len
    if config.max_seq_len is not None and config.max_seq_len > longest:
        raise ValueError(
            f"--max-seq-len {config.max_seq_len} is longer than the model's context of {longest}"
        )
    if config.stride is not None and config.stride > (config.max_seq_len or longest):
        raise ValueError(
            f"--stride {config.stride} is longer than a window of {config.max_seq_len or longest} tokens"
        )
    metrics_path = runtime.paths.metrics(checkpoint.directory.resolve().name)
    dataset = open_shared(_source(config, checkpoint), runtime.paths, runtime.processes)
    files = {name: find_files(name) for name in config.bpb}
    with runtime.processes.together("fetching the CORE bundle"):
        if runtime.is_main:
            _bundle(config, runtime)
    result = _evaluate(config, checkpoint, dataset, files, runtime)
    with open_metrics(
        metrics_path,
        STAGE,
        wandb_run=config.wandb_run,
        track=config.track,
        config=ConfigRow(to_json(config)),
        enabled=runtime.is_main,
        resume=True,
    ) as metrics:
        _log(metrics, result)
        metrics.log(DoneRow(step=result.step, wall_s=time.monotonic() - began))
    if runtime.is_main:
        write_scores(Path(result.answers) / f"{STAGE}.csv", csv_lines(result))
    show(result)
    return result


def _evaluate(
    config: EvalBaseConfig,
    checkpoint: OpenCheckpoint,
    dataset: Dataset,
    files: Mapping[str, Sequence[Path]],
    runtime: Runtime,
) -> EvalBaseResult:
    subject = subject_of(checkpoint, runtime)
    kept = cache_beside(checkpoint, runtime, fresh=config.fresh)
    batch_tokens = config.batch_tokens or BATCH_TOKENS[runtime.device.type]
    max_seq_len = config.max_seq_len or checkpoint.config.max_seq_len

    stride = config.stride or max_seq_len

    def bpb(name: str, source: Iterable[Document]) -> BpbResult:
        with runtime.processes.together("reading the text"):
            texts = first_documents(source, config.max_bytes)
        digest = sha256_of_values(texts)
        runtime.processes.same(f"the text of {name}", digest)

        def score() -> BpbResult:
            return bits_per_byte(
                subject.model,
                subject.tokenizer,
                texts,
                runtime,
                max_seq_len=max_seq_len,
                batch_tokens=batch_tokens,
                stride=stride,
            )

        settings = {"max_seq_len": max_seq_len, "stride": stride}
        return kept.get_or_compute(f"bpb-{Path(name).name}", digest, settings, BpbResult, score)

    def core() -> CoreResult | None:
        bundle = _bundle(config, runtime)
        if bundle is None:
            return None
        return evaluate_core(
            subject, bundle, runtime, kept, max_per_task=config.max_per_task, batch_tokens=batch_tokens
        )

    samples = kept.get_or_compute(
        "samples", sha256_of_values(PROMPTS), {}, SampleTexts, lambda: _sample(subject, runtime)
    )
    return EvalBaseResult(
        model_tag=checkpoint.directory.resolve().name,
        step=checkpoint.step,
        dataset=dataset.name,
        train=bpb("train", map(Document, documents(dataset, "train"))),
        val=bpb("val", map(Document, documents(dataset, "val"))),
        texts=tuple(TextScore(name, bpb(name, _read(config, paths))) for name, paths in files.items()),
        samples=samples.texts,
        core=core(),
        answers=str(kept.folder),
    )


def _read(config: EvalBaseConfig, paths: Sequence[Path]) -> Iterable[Document]:
    return chain.from_iterable(
        read_with_sources(path, config.text_column, config.source_column) for path in paths
    )


def _sample(subject: Subject, runtime: Runtime) -> SampleTexts:
    model = subject.model
    with runtime.processes.together("sampling"):
        engine = Engine(model, subject.tokenizer, max_rows=len(PROMPTS), tools=None)
        return SampleTexts(tuple(sample(engine, subject.tokenizer)))


def _source(config: EvalBaseConfig, checkpoint: OpenCheckpoint) -> TextSource:
    """The requested text, else the model's training dataset with the options it was trained with."""
    trained = checkpoint.meta.config
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
    if config.bundle is not None and config.core != "off":
        return own_bundle(expanded(config.bundle), runtime.paths)
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
            core_standard_error=core.standard_error if core else None,
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
                intervals={task.label: (task.interval.low, task.interval.high) for task in core.tasks},
            )
        )
