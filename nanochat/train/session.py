"""Shared by all stages of training: the trainer, the hooks around the loop, the metrics, and the final message."""

import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nanochat import hardware
from nanochat.batches.loader import Loader
from nanochat.batches.rows import PackingReport
from nanochat.checkpoint import store
from nanochat.checkpoint.loading import TOKENIZER_DIR, load_weights
from nanochat.checkpoint.meta import CheckpointMeta, TrainingPlan
from nanochat.config import to_json
from nanochat.console import progress as progress_bar
from nanochat.console import say
from nanochat.metrics import Metrics, open_metrics, rows_of
from nanochat.metrics_rows import ConfigRow, DoneRow, EvalRow, PackingRow
from nanochat.model.cost import flops_per_token
from nanochat.model.gpt import GPT
from nanochat.optim.muon_adamw import MuonAdamW, MuonOptions
from nanochat.processes import launcher
from nanochat.runtime import Runtime
from nanochat.scaling import RunPlan
from nanochat.tokenizer.tokenizer import Tokenizer
from nanochat.train.hooks import Evaluate, Log, SampleText, Save
from nanochat.train.loop import Hook, Step, train
from nanochat.train.options import FixedShapeOptions, TrainingOptions
from nanochat.train.state import Trainer
from nanochat.train.step import train_step, warm_up

CHECKPOINT_BYTES_PER_PARAMETER = 12
"""Weights and at most two moments."""


@dataclass(frozen=True)
class TrainingResult:
    """The outcome of a training stage."""

    finished: bool
    step: int
    checkpoint: Path
    loss: float | None
    figures: dict[str, float]
    """From the last evaluation."""
    tokens: int
    skipped_steps: int
    train_s: float
    wall_s: float
    peak_rss_bytes: int


def training_plan(plan: RunPlan, options: FixedShapeOptions, dtype: str) -> TrainingPlan:
    """The parts of the dial's plan that a checkpoint keeps."""
    return TrainingPlan(
        schedule=plan.schedule,
        rates=plan.rates,
        muon_per_head=plan.muon_per_head,
        batch_tokens=plan.batch_tokens,
        device_batch_size=plan.device_batch_size,
        seed=options.seed,
        dtype=dtype,
        fp8=options.fp8,
    )


def make_trainer(
    meta: CheckpointMeta,
    directory: Path,
    model: GPT,
    tokenizer: Tokenizer,
    loader: Loader | None,
    runtime: Runtime,
) -> Trainer:
    """A trainer; past step 0, model and optimiser are restored from the checkpoint of `meta` in `directory`.

    Raises ValueError if the checkpoint belongs to another model.
    """
    plan = meta.plan
    # Orthogonalise in the compute dtype, which is fast on this device.
    options = MuonOptions(
        dtype=runtime.compute_dtype, head_dim=model.config.head_dim if plan.muon_per_head else None
    )
    optimizer = MuonAdamW(model.named_parameters(), plan.rates, options, processes=runtime.processes)
    if meta.step:
        load_weights(model, store.load_model_state(directory, meta.step), directory)
        optimizer.load_state_dict(store.load_optimizer_state(directory, meta.step))
    return Trainer(
        model, tokenizer, optimizer, plan.schedule, loader, runtime, meta.progress, plan.document_mask
    )


@dataclass(frozen=True)
class Session:
    """A training stage, ready to run."""

    model_tag: str
    """Name of the run and of its folders of checkpoints and metrics."""
    options: TrainingOptions
    trainer: Trainer
    meta: CheckpointMeta
    facts: dict[str, Any]
    """Further fields of the metrics' first row."""
    score: Callable[[Trainer], dict[str, float]]
    prompts: Sequence[str] = ()
    """Continued at the end and every `sample_every` steps."""
    sample_every: int = 0
    step: Step = train_step
    hooks: Callable[[Metrics], Sequence[Hook]] = lambda metrics: ()
    """The stage's own, which run before the shared ones."""
    score_first: bool = False
    """Also evaluate before the first step."""

    @property
    def directory(self) -> Path:
        """Folder of the checkpoints."""
        return self.trainer.runtime.paths.checkpoints(self.model_tag)

    def execute(self) -> TrainingResult:
        """Train to the end or until a signal; either way save, log and print the outcome."""
        began, trainer = time.monotonic(), self.trainer
        if trainer.runtime.is_main:
            self._prepare_directory()
        with self._open_metrics() as metrics:
            for choice in trainer.model.backend.describe():
                say(str(choice))
            rows = self.meta.plan.device_batch_size
            compiles = trainer.model.backend.compiles and not trainer.finished
            compile_s = warm_up(trainer, rows) if compiles else None
            evaluate = Evaluate(self.options.eval_every, self.score, metrics, self.options.eval_share)
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
            if packing is not None:
                metrics.log(PackingRow(**to_json(packing)))
            if result.finished:  # only for its timings: the checkpoint says that the run is finished
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
        need = (self.options.keep_last + 1) * parameters * CHECKPOINT_BYTES_PER_PARAMETER
        store.ensure_writable(self.directory, need)
        if not self.meta.step:
            # A run that died before its first checkpoint may have left another tokenizer.
            shutil.rmtree(self.directory / TOKENIZER_DIR, ignore_errors=True)
            self.trainer.tokenizer.save(self.directory / TOKENIZER_DIR)

    def _open_metrics(self) -> Metrics:
        """Open the run's metrics and log the row with its configuration."""
        runtime = self.trainer.runtime
        return open_metrics(
            runtime.paths.metrics(self.model_tag),
            self.meta.stage,
            wandb_run=self.options.wandb_run,
            track=self.options.track,
            config=ConfigRow(
                config=self.meta.config,
                hardware=hardware.describe(),
                software=self.meta.software,
                world_size=runtime.processes.world_size,
                **self.facts,
            ),
            enabled=runtime.is_main,
            resume=self.meta.step > 0,
        )

    def _train(self, metrics: Metrics, evaluate: Evaluate) -> tuple[Log, PackingReport | None]:
        trainer, options = self.trainer, self.options
        save = Save(self.directory, options.save_every, options.save_minutes, options.keep_last, self.meta)
        samples = SampleText(self.sample_every, self.prompts, metrics)
        total, shown = trainer.schedule.total_steps, trainer.runtime.is_main
        with progress_bar(self.meta.stage, total, "steps", enabled=shown) as bar:
            log = Log(metrics, bar, flops_per_token(self.meta.model), self._peak_flops())
            hooks = (*self.hooks(metrics), save, log, evaluate, samples)
            if self.score_first and not trainer.progress.step:
                evaluate.evaluate(trainer)
            if trainer.finished and not self._evaluated():  # killed between its last save and the evaluation
                evaluate.evaluate(trainer)
                samples.show(trainer)
            packing = None
            try:
                train(trainer, hooks, self.step)
            finally:
                if trainer.loader is not None:
                    packing = trainer.loader.report()
                    trainer.loader.close()
        return log, packing

    def _evaluated(self) -> bool:
        """Whether the metrics have an evaluation of the present step."""
        path, step = self.trainer.runtime.paths.metrics(self.model_tag), self.trainer.progress.step
        return self.trainer.runtime.processes.decide(
            lambda: any(row.step == step for row in rows_of(path, EvalRow, self.meta.stage))
        )

    def _peak_flops(self) -> float | None:
        runtime = self.trainer.runtime
        if runtime.device.type != "cuda" or self.trainer.loader is None:  # sampling is no training FLOP
            return None
        precision: hardware.Precision = "fp32" if runtime.compute_dtype == torch.float32 else "bf16"
        peak = hardware.peak_flops(torch.cuda.get_device_name(runtime.device), precision)
        return peak and peak * runtime.processes.world_size

    def _close(self, result: TrainingResult) -> None:
        if result.finished:
            say(f"{self.meta.stage} finished at step {result.step}; checkpoint in {result.checkpoint}")
        else:
            words = [word for word in sys.argv[1:] if not word.startswith("--resume=")]
            if "--resume" in words:
                at = words.index("--resume")
                del words[at : at + 2]
            say(
                f"stopped at step {result.step}, saved; "
                f"continue with: {launcher()} {shlex.join(words)} --resume auto"
            )
