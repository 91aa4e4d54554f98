"""The meta of a checkpoint: frozen dataclasses, validated when read.

Stages hand it to each other. `TrainingPlan`, what a run does, is decided once; `Progress` changes with every step;
`course` derives what must not change when a run is resumed.

The layout on disk is numbered. A change increments `FORMAT` and adds a function to `migrations.MIGRATIONS`.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from nanochat.batches.position import DataPosition
from nanochat.checkpoint.migrations import FORMAT, migrated
from nanochat.config import from_json, to_json
from nanochat.model.gpt_config import GPTConfig
from nanochat.optim.groups import LearningRates
from nanochat.optim.schedule import Schedule

Part = Literal["model", "optim"]
"""The files of a checkpoint besides its meta."""

# No real model comes near these sizes. A damaged meta is refused before anything of its size is allocated.
_MOST_LAYERS = 2**12
_MOST_TOKENS = 2**24
_MOST_SOFTCAP = 50  # beyond it, e^logit underflows in the fp32 of nanochat/model/loss.cpp
_MOST_CHANNELS = 2**20
_GATES = ("gate_channels", "smear_channels")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class SuccessorBasis:
    """What a stage after a run follows: the peak rates that its own are fractions of, and the tokens of a step."""

    rates: LearningRates
    batch_tokens: int


@dataclass(frozen=True)
class TrainingPlan:
    """What a stage does from its first step to its last. Raises ValueError for values out of range."""

    schedule: Schedule
    rates: LearningRates
    """Peak learning rates of this stage."""
    muon_per_head: bool
    batch_tokens: int
    """Tokens per step, over all processes."""
    device_batch_size: int
    """Rows per micro-batch on one device. It only affects memory and may change when the run is resumed."""
    seed: int
    dtype: str | None = None
    """The compute dtype, "fp32" or "bf16"; None for a run begun before it was recorded."""
    native: bool = False
    """Whether operators are computed in C++ (`Backend.native`)."""
    fp8: bool = False
    """Whether the blocks' matrices are multiplied in fp8."""
    document_mask: bool = False
    """Whether documents in one row are kept apart."""
    offers: SuccessorBasis | None = None
    """What the next stage follows; None: this stage's own. `rl` and `dpo`, whose rates suit no other stage, pass on
    what they followed."""

    def __post_init__(self) -> None:
        _require_positive(
            total_steps=self.total_steps,
            batch_tokens=self.batch_tokens,
            device_batch_size=self.device_batch_size,
        )
        _require_positive(batch_tokens=self.successor_basis.batch_tokens)
        for table in (self.rates, self.successor_basis.rates, self.schedule):
            for name, value in asdict(table).items():
                _require(math.isfinite(value) and value >= 0, name, value, "a finite non-negative number")

    @property
    def successor_basis(self) -> SuccessorBasis:
        """What the next stage follows."""
        return self.offers or SuccessorBasis(self.rates, self.batch_tokens)

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole stage."""
        return self.schedule.total_steps

    @property
    def tokens(self) -> int:
        """Tokens of the whole stage."""
        return self.total_steps * self.batch_tokens


@dataclass(frozen=True)
class Progress:
    """The progress of a run."""

    step: int = 0
    """Optimiser steps taken, skipped ones included."""
    tokens: int = 0
    skipped_steps: int = 0
    """Steps whose loss or gradients were not finite."""
    elapsed_s: float = 0.0
    """Seconds spent in steps, accumulated over resumptions."""
    position: DataPosition | None = None
    """Place in the data after the last step; None before the first."""

    def __post_init__(self) -> None:
        counts = (self.step, self.tokens, self.skipped_steps)
        for name, value in zip(("step", "tokens", "skipped_steps"), counts, strict=True):
            _require(value >= 0, name, value, "non-negative")
        elapsed = self.elapsed_s
        _require(math.isfinite(elapsed) and elapsed >= 0, "elapsed_s", elapsed, "finite and non-negative")

    def after_step(
        self, tokens: int, skipped: bool, seconds: float, position: DataPosition | None
    ) -> Progress:
        """The progress after one more step of `tokens` tokens and `seconds` seconds."""
        return Progress(
            step=self.step + 1,
            tokens=self.tokens + tokens,
            skipped_steps=self.skipped_steps + skipped,
            elapsed_s=self.elapsed_s + seconds,
            position=position,
        )


@dataclass(frozen=True)
class SourceRun:
    """The checkpoint that a run started from."""

    model_tag: str
    """As given: a run's name, or the path of its checkpoints."""
    step: int
    weights_sha256: str

    def __post_init__(self) -> None:
        _require(self.step >= 0, "step", self.step, "non-negative")
        _require_sha256("weights_sha256", self.weights_sha256)


@dataclass(frozen=True)
class FileFacts:
    """The size in bytes and the sha256 in hex that a file must have."""

    size: int
    sha256: str

    def __post_init__(self) -> None:
        _require(self.size >= 0, "size", self.size, "non-negative")
        _require_sha256("sha256", self.sha256)


@dataclass(frozen=True)
class CheckpointMeta:
    """The content of a meta file. Raises ValueError for inconsistent parts."""

    stage: str
    """"pretrain", "sft", "rl" or "dpo"."""
    model: GPTConfig
    tokenizer: str
    """Hash of the vocabulary that the model was trained on."""
    plan: TrainingPlan
    progress: Progress
    source: SourceRun | None = None
    """None for a model trained from scratch."""
    config: dict[str, Any] = field(default_factory=dict)
    """The stage's flags, as given on the command line."""
    software: dict[str, Any] = field(default_factory=dict)
    """Versions at the time of saving."""
    files: dict[Part, FileFacts] = field(default_factory=dict)
    """Filled in by `store.save`."""

    def __post_init__(self) -> None:
        steps, total = self.progress.step, self.plan.total_steps
        _require(steps <= total, "progress.step", steps, f"at most the {total} steps of the plan")

    @property
    def step(self) -> int:
        """Optimiser steps taken."""
        return self.progress.step

    @property
    def is_base(self) -> bool:
        """Whether the model only continues text: no stage has taught it the chat format."""
        return self.stage == "pretrain"

    @property
    def finished(self) -> bool:
        """Whether the run reached the end of its schedule."""
        return self.progress.step == self.plan.total_steps

    def course(self) -> dict[str, Any]:
        """What must not change when the run is resumed, as one flat table of dotted names."""
        plan = to_json(self.plan)
        # The backend sees to `native`, and what is offered follows from the source.
        for free in ("device_batch_size", "native", "offers"):
            del plan[free]
        source = self.source and self.source.weights_sha256
        return _flat(
            {
                "model": to_json(self.model),
                "plan": plan,
                "tokenizer": self.tokenizer,
                "source weights": source,
            }
        )


def to_plain(meta: CheckpointMeta) -> dict[str, Any]:
    """The meta as plain containers, as written to the file."""
    return {"format": FORMAT, **to_json(meta)}


def from_plain(content: Any) -> CheckpointMeta:
    """Read the output of `to_plain`, of this or an earlier format.

    Raises ValueError naming what is wrong: an unknown format, a missing or ill-typed field, a value out of range.
    """
    fields = migrated(content)
    meta = from_json(CheckpointMeta, fields)
    meta = replace(meta, config=_plain(meta.config, "config"), software=_plain(meta.software, "software"))
    if missing := sorted(_flat(to_json(meta)).keys() - _flat(fields).keys()):
        # Even if the dataclass has a default: the file may have meant another value.
        raise ValueError(f"CheckpointMeta: missing {', '.join(missing)}")
    check_shape(meta.model)
    if "model" not in meta.files:
        raise ValueError("CheckpointMeta.files: lacks the model file")
    return meta


def check_shape(config: GPTConfig) -> None:
    """Raise ValueError for shapes that no machine could hold."""
    limits = dict.fromkeys(
        ("n_head", "n_kv_head", "head_dim", "n_embd", "mlp_ratio", *_GATES), _MOST_CHANNELS
    )
    limits |= {"n_layer": _MOST_LAYERS, "max_seq_len": _MOST_TOKENS, "vocab_size": _MOST_TOKENS}
    for name, most in limits.items():
        value = getattr(config, name)
        _require(1 <= value <= most, f"model.{name}", value, f"between 1 and {most}")
    for name in ("rope_base", "qk_gain", "gate_scale", "softcap"):
        _require(math.isfinite(getattr(config, name)), f"model.{name}", getattr(config, name), "finite")
    _require(
        0 <= config.softcap <= _MOST_SOFTCAP,
        "model.softcap",
        config.softcap,
        f"between 0 and {_MOST_SOFTCAP}",
    )


def _plain(table: dict[str, Any], name: str) -> dict[str, Any]:
    """An untyped table. Raises ValueError if it holds anything but plain containers."""
    try:
        return to_json(table)
    except TypeError as error:
        raise ValueError(f"CheckpointMeta.{name}: {error}") from None


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat |= (
            _flat(value, f"{prefix}{name}.")
            if isinstance(value, dict) and value
            else {f"{prefix}{name}": value}
        )
    return flat


def _require(holds: bool, name: str, value: Any, wanted: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {wanted}, not {value!r}")


def _require_positive(**values: int) -> None:
    for name, value in values.items():
        _require(value >= 1, name, value, "at least 1")


def _require_sha256(name: str, value: str) -> None:
    _require(_SHA256.fullmatch(value) is not None, name, value, "64 hexadecimal digits")
