"""The rows of a metrics file: a frozen dataclass for each kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from nanochat.config import from_json
from nanochat.hardware import Hardware


class Row:
    """The content of one metrics row; `Metrics.log` adds kind, stage and time."""

    kind: ClassVar[str]

    def place(self) -> tuple[object, ...]:
        """Identifies a row within its stage and kind; of rows with the same place, the last one counts."""
        return ()


class StepRow(Row):
    """A row about one step. A resumed run repeats steps."""

    step: int

    def place(self) -> tuple[object, ...]:
        """The step."""
        return (self.step,)


@dataclass(frozen=True)
class ConfigRow(Row):
    """Start of a stage, with its flags; a training stage adds the machine, its plan and dataset."""

    kind: ClassVar[str] = "config"

    config: dict[str, Any]
    hardware: Hardware | None = None
    software: dict[str, str | None] | None = None
    world_size: int | None = None
    plan: dict[str, Any] | None = None
    dataset: str | None = None


@dataclass(frozen=True)
class TrainRow(StepRow):
    """One training step. None for a loss or norm that was not finite, and for an unknown MFU."""

    kind: ClassVar[str] = "train"

    step: int
    total_steps: int
    tokens: int
    """Seen so far."""
    loss: float | None
    """Nats per token."""
    lr: float
    """Multiplier of the peak rates."""
    grad_norm: float | None
    tok_per_s: float
    mfu: float | None
    elapsed_s: float
    """Seconds in steps so far."""
    skipped_steps: int
    """Steps so far whose loss or gradients were not finite."""


@dataclass(frozen=True)
class EvalRow(StepRow):
    """The figures of an evaluation; None if not measured."""

    kind: ClassVar[str] = "eval"

    step: int
    val_bpb: float | None = None
    """Bits per byte of validation text."""
    train_bpb: float | None = None
    val_loss: float | None = None
    """Nats per supervised token of held-out conversations."""
    core: float | None = None
    core_standard_error: float | None = None
    core_partial: bool | None = None
    """Whether some of CORE's tasks were missing."""
    accuracy: float | None = None
    """Of greedy answers to held-out items of the task that reinforcement trains."""
    pass_at_1: float | None = None
    """The probability that one sample at temperature 1, two, … hold a right one."""
    pass_at_2: float | None = None
    pass_at_4: float | None = None
    pass_at_8: float | None = None
    pass_at_16: float | None = None
    preferred: float | None = None
    """Share of held-out pairs whose chosen answer gained more on the reference than the rejected one."""

    def place(self) -> tuple[object, ...]:
        """The step and which figures there are: other figures of the same step do not replace them."""
        return (self.step, *(name for name, value in vars(self).items() if value is not None))

    @classmethod
    def of(cls, step: int, figures: Mapping[str, float]) -> EvalRow:
        """A row of named figures. Raises ValueError for an unknown name."""
        return from_json(cls, {"step": step, **figures})


@dataclass(frozen=True)
class RolloutRow(StepRow):
    """The samples of one step of reinforcement, over all processes."""

    kind: ClassVar[str] = "rollouts"

    step: int
    prompts: int
    samples: int
    """Of all prompts together."""
    reward: float
    """Mean of the samples, the sum of `rewards`."""
    rewards: dict[str, float]
    """Mean by name, weighted."""
    right: float
    """Share of right answers."""
    informative: float
    """Share of prompts whose samples differ in reward: the others teach nothing."""
    length: float
    """Mean tokens that the model sampled."""
    cut: float
    """Share of samples that the token limit ended."""
    tool_calls: float
    """Mean per sample."""
    nats: float
    """Mean of -log p of the sampled tokens, an estimate of the policy's entropy."""
    logprob_gap: float
    """Mean absolute difference between the engine's log-probabilities and the trainer's."""
    logprob_gap_max: float
    clipped: float
    """Share of tokens whose gradient was clipped away."""
    kl: float | None
    """Mean nats per token from the reference policy; None if it is not measured."""
    rollout_tok_per_s: float
    rollout_s: float
    gradient_s: float
    optimizer_s: float
    refresh_s: float
    """To give the engine the new weights."""
    other_s: float


@dataclass(frozen=True)
class SampleRow(StepRow):
    """The model's continuation of a prompt, or its answer."""

    kind: ClassVar[str] = "sample"

    step: int
    prompt: str
    text: str

    def place(self) -> tuple[object, ...]:
        """The step and the prompt."""
        return (self.step, self.prompt)


@dataclass(frozen=True)
class TasksRow(StepRow):
    """By task: accuracy, number of items, accuracy of guessing, and the accuracy's 95 % interval."""

    kind: ClassVar[str] = "tasks"

    step: int
    scores: dict[str, float]
    counts: dict[str, int]
    baselines: dict[str, float]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    chatcore: float | None = None
    chatcore_standard_error: float | None = None

    def place(self) -> tuple[object, ...]:
        """The step and the tasks: other tasks of the same step do not replace them."""
        return (self.step, *sorted(self.scores))


@dataclass(frozen=True)
class PackingRow(Row):
    """How many tokens a training stage used, cropped and padded, over all processes."""

    kind: ClassVar[str] = "packing"

    used: int
    cropped: int
    padded: int
    epochs: float


@dataclass(frozen=True)
class TokenizerRow(Row):
    """A trained tokenizer. `bytes_per_token` is measured on validation text."""

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
    """UTF-8 bytes per token of one tokenizer, by domain; more is better."""

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
class TrackedRow(Row):
    """A service that also receives these rows, and what it calls the run."""

    kind: ClassVar[str] = "tracked"

    id: str
    tracker: str = "wandb"

    def place(self) -> tuple[object, ...]:
        """The service."""
        return (self.tracker,)


@dataclass(frozen=True)
class DoneRow(Row):
    """How long a stage took. (Whether a run is finished is up to its checkpoint.)"""

    kind: ClassVar[str] = "done"

    wall_s: float
    step: int | None = None
    train_s: float | None = None
    """Seconds in steps, accumulated over resumptions."""
    peak_rss_bytes: int | None = None
    compile_s: float | None = None


KINDS: Mapping[str, type[Row]] = {
    row.kind: row
    for row in (
        ConfigRow,
        TrainRow,
        EvalRow,
        RolloutRow,
        SampleRow,
        TasksRow,
        PackingRow,
        TokenizerRow,
        CompressionRow,
        StageRow,
        TrackedRow,
        DoneRow,
    )
}

# Kinds with another name today.
FORMER_KINDS: Mapping[str, str] = {"wandb": TrackedRow.kind}

# Renamed fields: kind, table within the row, old name, new name.
# Removed fields need no entry: unknown fields are ignored.
RENAMED: tuple[tuple[str, tuple[str, ...], str, str], ...] = (
    ("config", ("plan", "model"), "sequence_len", "max_seq_len"),
)
