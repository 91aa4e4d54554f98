"""The dial: from a depth to a complete plan of a pretraining run.

Pure functions, every formula with its source; the measured values that they scale are in `regimes`.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from nanochat.bounds import require_positive
from nanochat.model.backend import MemoryModel, memory_model
from nanochat.model.cost import flops_per_token, horizon_parameters, parameter_counts, training_bytes
from nanochat.model.gpt_config import GPTConfig
from nanochat.optim.groups import LearningRates
from nanochat.optim.schedule import Schedule
from nanochat.regimes import REFERENCE_DEPTH, REGIME_OF_DEVICE, REGIMES, Regime, RegimeName

DEFAULT_DEPTH = 4
WIDTH_PER_LAYER = 64
MOST_DEPTH = 256
"""Ten trillion bytes of weights and gradients: more than any device has, and still planned in seconds."""

LEAST_CONTEXT = 8
"""In tokens: a shorter one has no room for a question, an answer of one token and their marks."""

ShapeName = Literal["full", "servable", "portable"]

SHAPES: dict[ShapeName, dict[str, Any]] = {
    "full": {},
    # Engines for many users flatten their requests into one row, in which smear would read another's token.
    "servable": {"smear": False},
    # What transformers' own class, vLLM's and mlx-lm's have.
    "portable": {
        "window_pattern": "L",
        "qk_gain": 1.0,
        **dict.fromkeys(("value_embeddings", "residual_scales", "smear", "backout"), False),
    },
}
"""What each shape fixes of GPTConfig."""


@dataclass(frozen=True)
class Dial:
    """The depth and the values that may override its choices: the flags shared by `plan` and `pretrain`."""

    depth: int | None = None
    """Number of transformer layers (default 4); everything below follows from it unless set."""
    minutes: float | None = None
    """Minutes from start to end on this machine, whose speed is measured; decides the steps and an unset depth."""
    target_param_data_ratio: float | None = None
    """Training tokens per parameter (matrices and head)."""
    num_iterations: int | None = None
    """Optimiser steps, instead of as many as the ratio gives; batch and decay still follow from it."""
    total_batch_size: int | None = None
    """Tokens per step."""
    device_batch_size: int | None = None
    """Most rows of a micro-batch per device (default: as many as fit)."""
    max_seq_len: int | None = None
    """Context length in tokens."""
    head_dim: int | None = None
    """Channels per attention head."""
    window_pattern: str | None = None
    """Attention windows of the layers in turn: L sees the whole context, S a quarter of it; always L in the last."""
    shape: ShapeName = "full"
    """Which other programs can run the model: full: with remote code; servable: vLLM and SGLang too (no smear);
    portable: without remote code, mlx-lm too (no windows, gain, value embeddings, scales, smear, backout)."""
    lr_scale: float = 1.0
    """Multiplies every learning rate."""
    regime: RegimeName | None = None
    """Which measured batch, rates, schedule, context and head size are scaled to this run (default: by device).
    cpu was tuned for runs of minutes on two cores, hopper for runs of hours on large GPUs."""

    def __post_init__(self) -> None:
        require_positive(self, "depth", "minutes", "target_param_data_ratio", "num_iterations", "lr_scale")
        require_positive(self, "total_batch_size", "device_batch_size", "max_seq_len", "head_dim")
        if self.layers > MOST_DEPTH:
            raise ValueError(f"--depth must be at most {MOST_DEPTH}, not {self.layers:,}")
        if self.max_seq_len is not None and self.max_seq_len < LEAST_CONTEXT:
            raise ValueError(f"--max-seq-len must be at least {LEAST_CONTEXT}, not {self.max_seq_len}")

    @property
    def layers(self) -> int:
        """The depth, or its default."""
        return DEFAULT_DEPTH if self.depth is None else self.depth


@dataclass(frozen=True)
class RunPlan:
    """Everything that the dial decides about a run."""

    depth: int
    regime: RegimeName
    model: GPTConfig
    parameters: dict[str, int]
    tokens: int
    total_steps: int
    batch_tokens: int
    device_batch_size: int
    """Most rows of a micro-batch."""
    accumulation: int
    """Micro-batches per step on the device that takes most rows."""
    world_size: int
    rates: LearningRates
    muon_per_head: bool
    schedule: Schedule
    flops_per_token: float
    memory_bytes: int
    """Estimated training memory of one device."""

    @property
    def total_flops(self) -> float:
        """FLOPs of the whole run."""
        return self.flops_per_token * self.tokens

    def hours(self, flops_per_second: float) -> float:
        """Hours of the whole run at this aggregate FLOP/s of all devices."""
        return self.total_flops / flops_per_second / 3600


def model_config(dial: Dial, vocab_size: int, regime: Regime) -> GPTConfig:
    """The model's shape: width = 64 · depth, rounded up to whole heads.

    Raises ValueError for windows in a shape that has none.
    """
    head_dim = dial.head_dim or regime.head_dim
    heads = -(-dial.layers * WIDTH_PER_LAYER // head_dim)
    fixed = SHAPES[dial.shape]
    windows = fixed.get("window_pattern", dial.window_pattern)
    if dial.window_pattern not in (None, windows):
        raise ValueError(
            f"--shape {dial.shape} has no windows: leave out --window-pattern {dial.window_pattern}"
        )
    return GPTConfig(
        max_seq_len=dial.max_seq_len or regime.max_seq_len,
        vocab_size=vocab_size,
        n_layer=dial.layers,
        n_head=heads,
        n_kv_head=heads,
        head_dim=head_dim,
        n_embd=heads * head_dim,
        **{**fixed, "window_pattern": regime.window_pattern if windows is None else windows},
    )


def make_plan(
    dial: Dial,
    vocab_size: int,
    device: str,
    world_size: int = 1,
    memory_limit: int | None = None,
    compute_dtype: torch.dtype | None = None,
) -> RunPlan:
    """The plan of a run on `world_size` devices of one kind ("cuda", "mps" or "cpu").

    memory_limit: bytes of one device; limits the size of micro-batches.
    compute_dtype: for the memory estimate (default: the dtype that such a device is fast at).
    Raises ValueError for sizes that do not divide, and if not even the smallest micro-batch fits.
    """
    assert dial.minutes is None, "train/minutes.py has turned them into depth and steps"
    regime = REGIMES[dial.regime or REGIME_OF_DEVICE[device]]
    config = model_config(dial, vocab_size, regime)
    ratio = dial.target_param_data_ratio or regime.target_param_data_ratio
    horizon = ratio * horizon_parameters(config)

    def reference_horizon(depth: int) -> float:
        return ratio * horizon_parameters(model_config(replace(dial, depth=depth), vocab_size, regime))

    batch_tokens = dial.total_batch_size
    if batch_tokens is None:
        best = _best_batch(regime, horizon, reference_horizon(REFERENCE_DEPTH))
        # In whole rows, so that the dial's own choice always divides.
        batch_tokens = -(-best // config.max_seq_len) * config.max_seq_len
    share = largest_share(rows_per_step(config.max_seq_len, batch_tokens, world_size), world_size)
    most_rows = max(1, regime.device_batch_tokens // config.max_seq_len)
    memory = memory_model(device, compute_dtype)
    device_batch_size, memory_bytes = _micro_batch(
        dial, share, most_rows, config, world_size, memory, memory_limit
    )
    total_steps = dial.num_iterations or max(1, round(horizon / batch_tokens))
    decay = regime.rates.weight_decay
    if regime.decay_horizon_depth is not None:
        larger = math.sqrt(batch_tokens / regime.rates_batch)
        decay *= larger * reference_horizon(regime.decay_horizon_depth) / horizon
    return RunPlan(
        depth=dial.layers,
        regime=regime.name,
        model=config,
        parameters=parameter_counts(config),
        tokens=total_steps * batch_tokens,
        total_steps=total_steps,
        batch_tokens=batch_tokens,
        device_batch_size=device_batch_size,
        accumulation=-(-share // device_batch_size),
        world_size=world_size,
        rates=_rates(regime, config.n_embd, batch_tokens, dial.lr_scale, decay),
        muon_per_head=regime.muon_per_head,
        schedule=_schedule(regime, total_steps),
        flops_per_token=flops_per_token(config),
        memory_bytes=memory_bytes,
    )


def _rates(regime: Regime, width: int, batch_tokens: int, lr_scale: float, decay: float) -> LearningRates:
    rates = regime.rates.scaled(lr_scale * (batch_tokens / regime.rates_batch) ** regime.rates_batch_exponent)
    width_factor = (width / regime.rates_width) ** -0.5  # only AdamW's rates; the exponent of muP would be -1
    return replace(
        rates,
        embedding=rates.embedding * width_factor,
        value_embedding=rates.value_embedding * width_factor,
        head=rates.head * width_factor,
        weight_decay=decay,
    )


def _micro_batch(
    dial: Dial,
    share: int,
    most_rows: int,
    config: GPTConfig,
    world_size: int,
    memory: MemoryModel,
    memory_limit: int | None,
) -> tuple[int, int]:
    """(rows of a micro-batch, memory of one device in bytes). Raises ValueError for what does not fit."""

    def needed(rows: int) -> int:
        return training_bytes(config, rows * config.max_seq_len, world_size, memory)

    def fits(rows: int) -> bool:
        return memory_limit is None or needed(rows) <= memory_limit

    if dial.device_batch_size is None:
        most = next((rows for rows in range(min(most_rows, share), 1, -1) if fits(rows)), 1)
        chosen = micro_batch_rows(share, most)
    else:
        chosen = min(share, dial.device_batch_size)
    if not fits(chosen):
        assert memory_limit is not None
        raise ValueError(
            f"--depth {dial.layers} needs about {needed(chosen) / 1e9:.1f} GB on each device with "
            f"--device-batch-size {chosen}, but there are {memory_limit / 1e9:.1f} GB: "
            "choose a smaller depth or device batch"
        )
    return chosen, needed(chosen)


def _best_batch(regime: Regime, horizon: float, reference_horizon: float) -> int:
    scale = horizon / (regime.batch_horizon or reference_horizon)
    batch = regime.batch_tokens * scale**regime.batch_exponent
    return max(regime.batch_minimum, 2 ** round(math.log2(batch)))


def rows_per_step(max_seq_len: int, batch_tokens: int, world_size: int) -> int:
    """Rows of a step over all processes. Raises ValueError for a batch that is not at least one row for each."""
    rows, remainder = divmod(batch_tokens, max_seq_len)
    if remainder or not rows:
        raise ValueError(
            f"a batch of {batch_tokens} tokens is not a whole number of rows of {max_seq_len} tokens: "
            f"choose --total-batch-size as a multiple of {max_seq_len}"
        )
    if rows < world_size:
        raise ValueError(
            f"{world_size} processes cannot share a batch of {rows} rows: start at most {rows} processes, "
            f"or choose a --total-batch-size of at least {world_size * max_seq_len}"
        )
    return rows


def largest_share(rows: int, world_size: int) -> int:
    """Rows of a step on the process that takes most of them."""
    return -(-rows // world_size)


def micro_batch_rows(share: int, limit: int) -> int:
    """Rows of a micro-batch, at most `limit`, for a process that takes `share` rows a step.

    Equal micro-batches where that does not make them much smaller, else as few as possible, the last one smaller.
    """
    limit = min(share, limit)
    divisor = next(rows for rows in range(limit, 0, -1) if share % rows == 0)
    fewest = -(-share // limit)
    return divisor if 2 * divisor > limit else -(-share // fewest)


def _schedule(regime: Regime, total_steps: int) -> Schedule:
    def steps(amount: float) -> int:
        return round(amount if amount > 1 else amount * total_steps)

    return Schedule(
        total_steps=total_steps,
        warmup_steps=min(steps(regime.warmup), total_steps),
        warmdown_fraction=regime.warmdown,
        final_lr=regime.final_lr,
        momentum_warmup_steps=steps(regime.momentum_warmup),
    )
