"""What pretraining and fine-tuning share: options, resuming, the hooks around the loop, and the closing words."""

import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from nanochat import hardware
from nanochat.batches.loader import Loader
from nanochat.batches.rows import PackingReport
from nanochat.checkpoint import store
from nanochat.checkpoint.loading import TOKENIZER_DIR, load_weights
from nanochat.checkpoint.meta import CheckpointMeta
from nanochat.config import to_json
from nanochat.console import progress as progress_bar
from nanochat.console import say
from nanochat.errors import EnvironmentFault
from nanochat.flags import WandbRun
from nanochat.metrics import Metrics, open_metrics
from nanochat.metrics_rows import ConfigRow, DoneRow, PackingRow
from nanochat.model.compilation import CompileMode
from nanochat.model.cost import flops_per_token
from nanochat.model.gpt import GPT
from nanochat.optim.muon_adamw import MuonAdamW, MuonOptions
from nanochat.processes import Processes, launcher
from nanochat.runtime import Runtime
from nanochat.tokenizer.tokenizer import Tokenizer
from nanochat.train.hooks import Evaluate, Log, SampleText, Save
from nanochat.train.loop import train
from nanochat.train.state import Trainer
from nanochat.train.step import warm_up

_CHECKPOINT_BYTES_PER_PARAMETER = 12  # weights and at most two moments


@dataclass(frozen=True)
class TrainingOptions:
    """Flags of every training stage."""

    wandb_run: WandbRun = None
    """Name of the Weights & Biases run; "dummy" logs to the local file only. Default: WANDB_RUN."""
    resume: Literal["never", "auto"] = "never"
    """auto: resume from the newest valid checkpoint of this run, or begin when there is none."""
    save_every: int = 0
    """Steps between checkpoints; 0 leaves it to --save-minutes."""
    save_minutes: float = 1.0
    """Minutes between checkpoints (stretched where saving takes long); 0 saves only at the end and on signals."""
    keep_last: int = 2
    """Checkpoints kept."""
    eval_every: int = 250
    """Steps between evaluations; 0 evaluates only at the end."""
    eval_bytes: int = 500_000
    """Validation text scored at each evaluation."""
    sample_every: int = 0
    """Steps between samples; 0 samples only at the end."""
    compile: CompileMode = "auto"
    fp8: bool = False
    """Multiply the blocks' matrices in fp8 (Hopper and later)."""
    seed: int = 42
    device: str = "auto"
    dtype: str = "auto"


@dataclass(frozen=True)
class TrainingResult:
    """What a training stage leaves."""

    finished: bool
    step: int
    checkpoint: Path
    loss: float | None
    figures: dict[str, float]
    """The last evaluation's."""
    tokens: int
    skipped_steps: int
    train_s: float
    wall_s: float
    peak_rss_bytes: int


def resume_step(directory: Path, options: TrainingOptions, processes: Processes) -> int | None:
    """The step to resume from, or None to begin: process 0 decides. Raises ValueError rather than overwrite a run."""
    return processes.decide(lambda: _resume_step(directory, options))


def _resume_step(directory: Path, options: TrainingOptions) -> int | None:
    there = store.committed(directory)
    if options.resume == "auto":
        newest = store.latest(directory)
        if there and newest is None:
            raise EnvironmentFault(
                f"every checkpoint in {directory} is torn: restore the files, or delete the folder"
            )
        return newest
    if there:
        raise ValueError(
            f"{directory} already holds a run at step {there[-1]}: continue it with --resume auto, "
            "choose another --model-tag, or delete the folder"
        )
    return None


def saved_run(directory: Path, options: TrainingOptions, processes: Processes) -> CheckpointMeta | None:
    """The checkpoint to resume from, the same on every process, or None to begin (raises as `resume_step`)."""
    step = resume_step(directory, options, processes)
    saved = None if step is None else store.load_meta(directory, step)
    processes.same("the checkpoint", saved and to_json(saved.files))
    return saved


def begin_or_resume(planned: CheckpointMeta, saved: CheckpointMeta | None, model_tag: str) -> CheckpointMeta:
    """The run as planned, at the progress of the checkpoint that it resumes from.

    Raises ValueError unless that checkpoint's run had the same course.
    """
    if saved is None:
        return planned
    before, now = saved.course(), planned.course()
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            raise ValueError(
                f"cannot resume: the run's {key} was {before.get(key)!r} and is now {now.get(key)!r}; "
                "use the same flags, or another --model-tag"
            )
    say(f"resuming {model_tag} at step {saved.step} of {planned.plan.total_steps}")
    return replace(planned, progress=saved.progress)


def make_trainer(
    meta: CheckpointMeta,
    directory: Path,
    model: GPT,
    tokenizer: Tokenizer,
    loader: Loader,
    runtime: Runtime,
) -> Trainer:
    """A model on its device with its optimiser, both restored when `meta` is at a step of a run in `directory`.

    Raises ValueError when the checkpoint is of another model.
    """
    plan = meta.plan
    # Orthogonalisation runs in the dtype the device is fast at, which is the one it multiplies in.
    options = MuonOptions(
        dtype=runtime.compute_dtype, head_dim=model.config.head_dim if plan.muon_per_head else None
    )
    optimizer = MuonAdamW(model.named_parameters(), plan.rates, options, processes=runtime.processes)
    if meta.step:
        load_weights(model, store.load_model_state(directory, meta.step), directory)
        optimizer.load_state_dict(store.load_optimizer_state(directory, meta.step))
    return Trainer(model, tokenizer, optimizer, plan.schedule, loader, runtime, meta.progress)


def keep_tokenizer(directory: Path, tokenizer: Tokenizer, runtime: Runtime) -> None:
    """Put the run's own copy of its tokenizer beside its checkpoints."""
    if runtime.is_main:
        tokenizer.save(directory / TOKENIZER_DIR)


@dataclass(frozen=True)
class Session:
    """A training stage, ready to run."""

    model_tag: str
    """Name of the run: its checkpoints' and metrics' folder."""
    options: TrainingOptions
    trainer: Trainer
    meta: CheckpointMeta
    facts: dict[str, Any]
    """More for the metrics' first row."""
    score: Callable[[Trainer], dict[str, float]]
    prompts: Sequence[str]

    @property
    def directory(self) -> Path:
        """Where the checkpoints are."""
        return self.trainer.runtime.paths.checkpoints(self.model_tag)

    def execute(self) -> TrainingResult:
        """Train to the end, or to a signal; everything is saved and told either way."""
        began, trainer = time.monotonic(), self.trainer
        if trainer.runtime.is_main:
            self._prepare_directory()
        with self._open_metrics() as metrics:
            for choice in trainer.model.backend.describe():
                say(str(choice))
            rows = self.meta.plan.device_batch_size
            compile_s = warm_up(trainer, rows) if trainer.model.backend.compile else None
            evaluate = Evaluate(self.options.eval_every, self.score, metrics)
            log, packing = self._train(metrics, evaluate)
            result = TrainingResult(
                finished=trainer.finished,
                step=trainer.progress.step,
                checkpoint=self.directory,
                loss=log.smooth_loss,
                figures=evaluate.latest,
                tokens=trainer.progress.tokens,
                skipped_steps=trainer.progress.skipped_steps,
                train_s=trainer.progress.elapsed_s,
                wall_s=time.monotonic() - began,
                peak_rss_bytes=hardware.peak_rss_bytes(),
            )
            metrics.log(PackingRow(**to_json(packing)))
            if result.finished:  # for its timing: that the run is finished stands in its checkpoint
                metrics.log(
                    DoneRow(
                        step=result.step,
                        wall_s=result.wall_s,
                        train_s=result.train_s,
                        peak_rss_bytes=result.peak_rss_bytes,
                        compile_s=compile_s,
                    )
                )
        self._close(result)
        return result

    def _prepare_directory(self) -> None:
        parameters = sum(p.numel() for p in self.trainer.model.parameters())
        need = (self.options.keep_last + 1) * parameters * _CHECKPOINT_BYTES_PER_PARAMETER
        store.ensure_writable(self.directory, need)
        if not self.meta.step:
            keep_tokenizer(self.directory, self.trainer.tokenizer, self.trainer.runtime)

    def _open_metrics(self) -> Metrics:
        """The run's metrics, with the row that says how it was begun."""
        runtime, config = self.trainer.runtime, self.meta.config
        metrics = open_metrics(
            runtime.paths.metrics(self.model_tag),
            self.meta.stage,
            wandb_run=self.options.wandb_run,
            config=config,
            enabled=runtime.is_main,
            resume=self.meta.step > 0,
        )
        metrics.log(
            ConfigRow(
                config=config,
                hardware=hardware.describe(),
                software=self.meta.software,
                world_size=runtime.processes.world_size,
                **self.facts,
            )
        )
        return metrics

    def _train(self, metrics: Metrics, evaluate: Evaluate) -> tuple[Log, PackingReport]:
        trainer, options = self.trainer, self.options
        save = Save(self.directory, options.save_every, options.save_minutes, options.keep_last, self.meta)
        samples = SampleText(options.sample_every, self.prompts, metrics)
        total, shown = trainer.schedule.total_steps, trainer.runtime.is_main
        with progress_bar(self.meta.stage, total, "steps", enabled=shown) as bar:
            log = Log(metrics, bar, flops_per_token(self.meta.model), self._peak_flops())
            try:
                train(trainer, (save, log, evaluate, samples))
            finally:
                packing = trainer.loader.report()
                trainer.loader.close()
        return log, packing

    def _peak_flops(self) -> float | None:
        runtime = self.trainer.runtime
        if runtime.device.type != "cuda":
            return None
        precision: hardware.Precision = "fp32" if runtime.compute_dtype == torch.float32 else "bf16"
        peak = hardware.peak_flops(torch.cuda.get_device_name(runtime.device), precision)
        return peak and peak * runtime.processes.world_size

    def _close(self, result: TrainingResult) -> None:
        if result.finished:
            say(f"{self.meta.stage} finished at step {result.step}; checkpoint in {result.checkpoint}")
        else:
            words = [word for word in sys.argv[1:] if word != "--resume=auto"]
            if "--resume" in words:
                at = words.index("--resume")
                del words[at : at + 2]
            say(
                f"stopped at step {result.step}, saved; "
                f"continue with: {launcher()} {shlex.join(words)} --resume auto"
            )
