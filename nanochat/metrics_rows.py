"""The rows of a metrics file: a frozen dataclass for each kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from nanochat.config import from_json
from nanochat.hardware import Hardware


class Row:
    """The content of one row of metrics; the log adds kind, stage and time."""

    kind: ClassVar[str]

    def place(self) -> tuple[object, ...]:
        """What identifies a row among those of its stage and kind: of rows with the same place the last one counts."""
        return ()


class StepRow(Row):
    """A row about one step. A resumed run repeats steps."""

    step: int

    def place(self) -> tuple[object, ...]:
        """The step."""
        return (self.step,)


@dataclass(frozen=True)
class ConfigRow(Row):
    """A stage begins: its flags; a training stage adds the machine and what was decided from the flags."""

    kind: ClassVar[str] = "config"

    config: dict[str, Any]
    hardware: Hardware | None = None
    software: dict[str, str | None] | None = None
    world_size: int | None = None
    plan: dict[str, Any] | None = None
    dataset: str | None = None


@dataclass(frozen=True)
class TrainRow(StepRow):
    """One training step. A loss or norm that was not finite is None; so is an unknown MFU."""

    kind: ClassVar[str] = "train"

    step: int
    total_steps: int
    tokens: int
    """Seen so far."""
    loss: float | None
    """Nats per token."""
    lr: float
    """Share of the peak."""
    grad_norm: float | None
    tok_per_s: float
    mfu: float | None
    elapsed_s: float
    """Seconds in steps so far."""
    skipped_steps: int
    """Not finite, so far."""


@dataclass(frozen=True)
class EvalRow(StepRow):
    """The figures of an evaluation; None for what it did not measure."""

    kind: ClassVar[str] = "eval"

    step: int
    val_bpb: float | None = None
    """Bits per byte of validation text."""
    train_bpb: float | None = None
    val_loss: float | None = None
    """Nats per supervised token of held-out conversations."""
    core: float | None = None
    core_partial: bool | None = None
    """Whether some of CORE's tasks were missing."""

    @classmethod
    def of(cls, step: int, figures: Mapping[str, float]) -> EvalRow:
        """The row of these named figures. Raises ValueError for a name that is no field."""
        return from_json(cls, {"step": step, **figures})


@dataclass(frozen=True)
class SampleRow(StepRow):
    """What the model added to a prompt, or answered."""

    kind: ClassVar[str] = "sample"

    step: int
    prompt: str
    text: str

    def place(self) -> tuple[object, ...]:
        """The step and the prompt."""
        return (self.step, self.prompt)


@dataclass(frozen=True)
class TasksRow(StepRow):
    """By task: the share of right answers, the number of items, and what guessing reaches."""

    kind: ClassVar[str] = "tasks"

    step: int
    scores: dict[str, float]
    counts: dict[str, int]
    baselines: dict[str, float]
    chatcore: float | None = None


@dataclass(frozen=True)
class PackingRow(Row):
    """What became of the tokens of a training stage, over all processes."""

    kind: ClassVar[str] = "packing"

    used: int
    cropped: int
    padded: int
    epochs: float


@dataclass(frozen=True)
class TokenizerRow(Row):
    """A tokenizer was trained. `bytes_per_token` is on validation text."""

    kind: ClassVar[str] = "tokenizer"

    path: str
    hash: str
    vocab_size: int
    documents: int
    characters: int
    bytes_per_token: float
    wall_s: float
    peak_rss_bytes: int


@dataclass(frozen=True)
class DomainRates:
    """UTF-8 bytes per token of one tokenizer, by domain."""

    name: str
    vocab_size: int
    bytes_per_token: dict[str, float]


@dataclass(frozen=True)
class CompressionRow(Row):
    """Tokenizers compared on the same texts, ours first; `bytes` is the size of the text by domain."""

    kind: ClassVar[str] = "compression"

    hash: str
    bytes: dict[str, int]
    tokenizers: tuple[DomainRates, ...]
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class StageRow(Row):
    """An attempt at a stage of a recipe; attempts with the same key work on the same result."""

    kind: ClassVar[str] = "stage"

    name: str
    key: str
    argv: tuple[str, ...]
    status: str
    """done, interrupted or failed"""
    wall_s: float


@dataclass(frozen=True)
class WandbRow(Row):
    """The Weights & Biases run that these rows go to as well."""

    kind: ClassVar[str] = "wandb"

    id: str


@dataclass(frozen=True)
class DoneRow(Row):
    """How long a stage took. (Whether a run is finished is said by its checkpoint.)"""

    kind: ClassVar[str] = "done"

    wall_s: float
    step: int | None = None
    train_s: float | None = None
    """Seconds in steps, over all the attempts of a resumed run."""
    peak_rss_bytes: int | None = None
    compile_s: float | None = None


KINDS: Mapping[str, type[Row]] = {
    row.kind: row
    for row in (
        ConfigRow,
        TrainRow,
        EvalRow,
        SampleRow,
        TasksRow,
        PackingRow,
        TokenizerRow,
        CompressionRow,
        StageRow,
        WandbRow,
        DoneRow,
    )
}

# What older versions wrote: kind, table within the row, the name then, the name now.
# A field that is gone needs no entry: unknown fields are passed over.
RENAMED: tuple[tuple[str, tuple[str, ...], str, str], ...] = (
    ("config", ("plan", "model"), "sequence_len", "max_seq_len"),
)
