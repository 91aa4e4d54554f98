"""The rows of a metrics file: a frozen dataclass for each kind, and how a line is read as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from nanochat.config import finite, from_json, parse_json, to_json
from nanochat.hardware import Hardware

# No figure of ours is larger: counts are 64-bit integers, losses and norms come from float32.
_LARGEST_COUNT = 2**63 - 1
_LARGEST_FIGURE = 3.5e38


class Row:
    """What a stage states in one row. The log adds the kind, the stage and the time."""

    kind: ClassVar[str]

    def place(self) -> tuple[object, ...]:
        """Of the rows of a stage that share their kind and this, the last one counts."""
        return ()


class StepRow(Row):
    """A row about one step. A resumed run repeats steps."""

    step: int

    def place(self) -> tuple[object, ...]:
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
    parameters: dict[str, int] | None = None
    """Number of parameters by group."""
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


@dataclass(frozen=True)
class LoggedRow:
    """A row as it stands in a metrics file: which stage wrote it, and when (seconds since 1970)."""

    stage: str
    time: float
    row: Row

    def to_json(self) -> dict[str, Any]:
        """One flat table: kind, stage, time, then the row's own fields."""
        return {"kind": self.row.kind, "stage": self.stage, "time": self.time, **to_json(self.row)}


@dataclass(frozen=True)
class _Envelope:
    kind: str
    stage: str
    time: float


def parse_row(line: bytes) -> LoggedRow:
    """One line of a metrics file. Fields that this version does not know are passed over.

    Raises ValueError for what is no row: malformed JSON, an unknown kind, a missing or ill-typed field, a number
    that no stage can have measured.
    """
    data = parse_figures(line)
    envelope = from_json(_Envelope, data, ignore_unknown=True)
    if envelope.kind not in KINDS:
        raise ValueError(f"unknown kind {envelope.kind!r}")
    row = from_json(KINDS[envelope.kind], _renamed(envelope.kind, data), ignore_unknown=True)
    return LoggedRow(envelope.stage, envelope.time, row)


def parse_figures(text: str | bytes) -> Any:
    """JSON that only holds what can be shown: a number that is not finite is None.

    Raises ValueError for malformed JSON, a number beyond all measure, and text with half a character in it.
    """
    data = finite(parse_json(text))
    _check_values(data)
    return data


def _check_values(value: Any) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _check_values(key)
            _check_values(item)
    elif isinstance(value, list):
        for item in value:
            _check_values(item)
    elif isinstance(value, str):
        value.encode()  # a lone surrogate raises UnicodeEncodeError, a ValueError
    elif isinstance(value, int) and abs(value) > _LARGEST_COUNT:
        raise ValueError("a whole number of more than 64 bits")
    elif isinstance(value, float) and abs(value) > _LARGEST_FIGURE:
        raise ValueError(f"{value:g} is larger than any float32")


def _renamed(kind: str, data: dict[str, Any]) -> dict[str, Any]:
    """`data` with the names of today."""
    for of_kind, path, then, now in RENAMED:
        if of_kind == kind:
            data = _rename(data, path, then, now)
    return data


def _rename(table: Any, path: tuple[str, ...], then: str, now: str) -> Any:
    if not isinstance(table, dict):
        return table
    if path:
        head, *rest = path
        return {**table, head: _rename(table[head], tuple(rest), then, now)} if head in table else table
    return {now if name == then and now not in table else name: value for name, value in table.items()}
