"""The flags that stages of training share; each stage has those that it reads."""

from dataclasses import dataclass, field
from typing import Literal

from nanochat.bounds import require_not_negative, require_positive, require_share
from nanochat.flags import Tracker, WandbRun, default_track
from nanochat.model.compilation import CompileMode


@dataclass(frozen=True)
class TrainingOptions:
    """Flags of every training stage."""

    wandb_run: WandbRun = None
    """Log the metrics to Weights & Biases under this name, or to the services of --track; "dummy": do not log.
    Default: WANDB_RUN. (The run itself is named by --model-tag.)"""
    track: tuple[Tracker, ...] = field(default_factory=default_track)
    """Also send the metrics to these services. Default: NANOCHAT_TRACK (names separated by commas)."""
    resume: Literal["never", "auto"] = "never"
    """auto: resume from the newest valid checkpoint of this run, or start if there is none."""
    save_every: int = 0
    """Steps between checkpoints; 0 leaves it to --save-minutes."""
    save_minutes: float = 1.0
    """Minutes between checkpoints (stretched where saving takes long); 0 saves only at the end and on signals."""
    keep_last: int = 2
    """Number of checkpoints to keep."""
    eval_every: int = 250
    """Steps between evaluations; 0 evaluates only at the end."""
    eval_share: float = 1.0
    """Largest share of the time that evaluations before the last may take; one that would exceed it is postponed."""
    seed: int = 42
    """Decides initial weights, order of the data and samples; the same seed gives the same run."""
    device: str = "auto"
    """cuda, mps or cpu; auto: the fastest here."""
    dtype: str = "auto"
    """Dtype of the products: bf16 or fp32; auto: bf16 where the device multiplies it fast."""

    def __post_init__(self) -> None:
        require_positive(self, "keep_last", "eval_share")
        require_share(self, "eval_share")
        require_not_negative(self, "save_every", "save_minutes", "eval_every", "seed")


@dataclass(frozen=True)
class FixedShapeOptions(TrainingOptions):
    """Flags of the stages whose batches all have one shape."""

    compile: CompileMode = "auto"
    """Compile training steps with torch.compile; auto does on CUDA only, and stays eager if it does not work."""
    fp8: bool = False
    """Multiply the blocks' matrices in fp8 (Hopper and later)."""


@dataclass(frozen=True)
class PretrainOptions(FixedShapeOptions):
    """Flags of pretraining besides its dial and its text."""

    eval_bytes: int = 500_000
    """Bytes of validation text scored at each evaluation."""
    sample_every: int = 0
    """Steps between samples; 0 samples only at the end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "eval_bytes")
        require_not_negative(self, "sample_every")
