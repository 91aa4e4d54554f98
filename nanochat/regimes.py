"""What was measured at two scales of hardware: batch sizes, learning rates, schedules.

Two regimes. `hopper` is the reference system's, tuned there at d12 to d26 on 8 × H100: batches of half a million
tokens and more, because many devices share a step's latency. `cpu` is ours, tuned on two cores at d2 to d6
(docs/log.md): no device waits for another, so the best batch is the smallest that keeps the cores busy, a few
thousand tokens, and every schedule is a fraction of a run that may last only minutes.
"""

from dataclasses import dataclass
from typing import Literal

from nanochat.optim.groups import LearningRates

RegimeName = Literal["hopper", "cpu"]

REFERENCE_DEPTH = 12
"""The depth for which a regime states batch and weight decay; other depths are scaled by their horizon."""


@dataclass(frozen=True)
class Regime:
    """Hyperparameters found by experiment at one scale of hardware, and how they scale from there."""

    name: RegimeName
    head_dim: int
    max_seq_len: int
    window_pattern: str
    target_param_data_ratio: float
    """Training tokens per parameter (matrices and head)."""
    least_param_data_ratio: float
    """Tokens per parameter from which on a model buys more in a given time than one of a layer less."""
    batch_tokens: int
    """Best batch for the horizon of the reference depth, or for `batch_horizon` tokens if given."""
    batch_exponent: float
    """The best batch grows as this power of the horizon (0.383: Power Lines, arXiv:2505.13738)."""
    batch_horizon: float | None
    batch_minimum: int
    rates: LearningRates
    """Learning rates for a model of `rates_width` and a batch of `rates_batch` tokens."""
    rates_width: int
    rates_batch: int
    rates_batch_exponent: float
    """0.5: the square-root rule for Adam-like optimisers (arXiv:2205.10287)."""
    decay_horizon_depth: int | None
    """Depth for which weight_decay is stated; it scales with √(batch) / horizon (arXiv:2405.13698)."""
    warmup: float
    """Steps if above 1, else a fraction of the run."""
    momentum_warmup: float
    """Steps if above 1, else a fraction of the run."""
    warmdown: float
    final_lr: float
    device_batch_tokens: int
    muon_per_head: bool
    """Orthogonalise attention matrices per head: cheaper, which matters for small batches."""


REGIMES: dict[RegimeName, Regime] = {
    "hopper": Regime(
        name="hopper",
        head_dim=128,
        max_seq_len=2048,
        window_pattern="SSSL",
        target_param_data_ratio=12,
        least_param_data_ratio=12,  # not measured: a whole horizon
        batch_tokens=2**19,
        batch_exponent=0.383,
        batch_horizon=None,
        batch_minimum=2**14,
        rates=LearningRates(
            matrix=0.02, embedding=0.3, value_embedding=0.15, head=0.008, scalar=0.5, weight_decay=0.28
        ),
        rates_width=768,
        rates_batch=2**19,
        rates_batch_exponent=0.5,
        decay_horizon_depth=REFERENCE_DEPTH,
        warmup=40,
        momentum_warmup=400,
        warmdown=0.65,
        final_lr=0.05,
        device_batch_tokens=32 * 2048,
        muon_per_head=False,
    ),
    "cpu": Regime(
        name="cpu",
        head_dim=64,
        max_seq_len=256,
        window_pattern="L",
        target_param_data_ratio=12,
        least_param_data_ratio=1.5,
        batch_tokens=4096,
        batch_exponent=0.383,
        batch_horizon=2.5e6,
        batch_minimum=1024,
        rates=LearningRates(
            matrix=0.02, embedding=0.3, value_embedding=0.15, head=0.008, scalar=0.05, weight_decay=0.0
        ),
        rates_width=256,
        rates_batch=4096,
        rates_batch_exponent=0.5,
        decay_horizon_depth=None,
        warmup=0.01,
        momentum_warmup=0.1,
        warmdown=0.65,
        final_lr=0.02,
        device_batch_tokens=4096,
        muon_per_head=True,
    ),
}
REGIME_OF_DEVICE: dict[str, RegimeName] = {"cuda": "hopper", "mps": "cpu", "cpu": "cpu"}
