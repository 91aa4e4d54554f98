"""What pretraining and fine-tuning share: options, resuming, the hooks around the loop, and the closing words."""

import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from nanochat import hardware
from nanochat.checkpoint import store
from nanochat.checkpoint.loading import TOKENIZER_DIR, load_weights
from nanochat.config import to_json
from nanochat.console import progress as progress_bar
from nanochat.console import say
from nanochat.errors import EnvironmentFault
from nanochat.flags import WandbRun
from nanochat.metrics import open_metrics
from nanochat.metrics_rows import ConfigRow, DoneRow, PackingRow
from nanochat.model.compilation import CompileMode
from nanochat.model.gpt import GPT
from nanochat.optim.groups import LearningRates
from nanochat.optim.muon_adamw import MuonAdamW, MuonOptions
from nanochat.runtime import Runtime
from nanochat.tokenizer.tokenizer import Tokenizer
from nanochat.train.hooks import Evaluate, Log, SampleText, Save
from nanochat.train.loop import train
from nanochat.train.state import Progress, Trainer
from nanochat.train.step import warm_up

_CHECKPOINT_BYTES_PER_PARAMETER = 12  # weights and at most two moments


@dataclass(frozen=True)
class TrainingOptions:
    """Flags of every training stage."""

    wandb_run: WandbRun = None
    """Name of the Weights & Biases run; "dummy" logs to the local file only. Default: WANDB_RUN."""
    resume: Literal["never", "auto"] = "never"
    """auto: go on from the newest valid checkpoint of this run, or begin when there is none."""
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


def make_optimizer(model: GPT, rates: LearningRates, runtime: Runtime, *, muon_per_head: bool) -> MuonAdamW:
    """Orthogonalisation runs in the dtype the device is fast at, which is the one it multiplies in."""
    head_dim = model.config.head_dim if muon_per_head else None
    options = MuonOptions(dtype=runtime.compute_dtype, head_dim=head_dim)
    return MuonAdamW(
        model.named_parameters(), rates, options, rank=runtime.rank, world_size=runtime.world_size
    )


def resume_step(directory: Path, options: TrainingOptions) -> int | None:
    """The step to go on from, or None to begin. Raises ValueError rather than overwrite a run."""
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
            f"{directory} already holds a run at step {there[-1]}: go on with --resume auto, "
            "choose another --model-tag, or delete the folder"
        )
    return None


def check_same(saved: dict[str, Any], now: dict[str, Any], what: str) -> None:
    """Raise ValueError unless a run is resumed with what decides its course."""
    for key in sorted(saved.keys() | now.keys()):
        if saved.get(key) != now.get(key):
            raise ValueError(
                f"cannot resume: {what} {key} was {saved.get(key)!r} and is now {now.get(key)!r}; "
                "use the same flags, or another --model-tag"
            )


def restore(directory: Path, step: int, model: GPT, optimizer: MuonAdamW) -> None:
    """Load weights and optimiser of a step. Raises ValueError when they are of another model."""
    load_weights(model, store.load_model_state(directory, step), directory)
    optimizer.load_state_dict(store.load_optimizer_state(directory, step))


def keep_tokenizer(directory: Path, tokenizer: Tokenizer, runtime: Runtime) -> None:
    """Put the run's own copy of its tokenizer beside its checkpoints."""
    if runtime.is_main:
        tokenizer.save(directory / TOKENIZER_DIR)


@dataclass(frozen=True)
class Session:
    """A training stage, ready to run."""

    stage: str
    model_tag: str
    """Name of the run: its checkpoints' and metrics' folder."""
    options: TrainingOptions
    trainer: Trainer
    micro_rows: int
    flops_per_token: float
    meta: dict[str, Any]
    """What a checkpoint says of the run besides its progress."""
    facts: dict[str, Any]
    """More for the metrics' first row."""
    score: Callable[[Trainer], dict[str, float]]
    prompts: Sequence[str]

    @property
    def directory(self) -> Path:
        return self.trainer.runtime.paths.checkpoints(self.model_tag)

    def execute(self) -> TrainingResult:
        """Train to the end, or to a signal; everything is saved and told either way."""
        began, trainer, runtime, options = time.monotonic(), self.trainer, self.trainer.runtime, self.options
        resumed = trainer.progress.step > 0
        parameters = sum(p.numel() for p in trainer.model.parameters())
        if runtime.is_main:
            need = (options.keep_last + 1) * parameters * _CHECKPOINT_BYTES_PER_PARAMETER
            store.ensure_writable(self.directory, need)
            if not resumed:
                keep_tokenizer(self.directory, trainer.tokenizer, runtime)
        config = to_json(options)
        with open_metrics(
            runtime.paths.metrics(self.model_tag),
            self.stage,
            wandb_run=options.wandb_run,
            config=config,
            enabled=runtime.is_main,
            resume=resumed,
        ) as metrics:
            metrics.log(
                ConfigRow(
                    config=config,
                    hardware=hardware.describe(),
                    software=hardware.software(),
                    world_size=runtime.world_size,
                    **self.facts,
                )
            )
            for choice in trainer.model.backend.describe():
                say(str(choice))
            compile_s = warm_up(trainer, self.micro_rows) if trainer.model.backend.compile else None
            save = Save(
                self.directory, options.save_every, options.save_minutes, options.keep_last, self.meta
            )
            evaluate = Evaluate(options.eval_every, self.score, metrics)
            total = trainer.schedule.total_steps
            with progress_bar(self.stage, total, "steps", enabled=runtime.is_main) as bar:
                log = Log(metrics, bar, self.flops_per_token, self._peak_flops())
                hooks = (save, log, evaluate, SampleText(options.sample_every, self.prompts, metrics))
                try:
                    finished = train(trainer, hooks)
                finally:
                    packing = trainer.loader.report()
                    trainer.loader.close()
            result = TrainingResult(
                finished=finished,
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
            if finished:
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

    def _peak_flops(self) -> float | None:
        runtime = self.trainer.runtime
        if runtime.device.type != "cuda":
            return None
        precision: hardware.Precision = "fp32" if runtime.compute_dtype == torch.float32 else "bf16"
        peak = hardware.peak_flops(torch.cuda.get_device_name(runtime.device), precision)
        return peak and peak * runtime.world_size

    def _close(self, result: TrainingResult) -> None:
        if result.finished:
            say(f"{self.stage} finished at step {result.step}; checkpoint in {result.checkpoint}")
        else:
            words = [word for word in sys.argv[1:] if word != "--resume=auto"]
            if "--resume" in words:
                at = words.index("--resume")
                del words[at : at + 2]
            say(
                f"stopped at step {result.step}, saved; go on with: nanochat {shlex.join(words)} --resume auto"
            )


def progress_of(meta: dict[str, Any]) -> Progress:
    """The saved progress of a checkpoint."""
    return Progress(**meta["progress"])
