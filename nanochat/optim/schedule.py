"""Learning rate, momentum and weight decay as pure functions of the step."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """All hyperparameters that change during a run of `total_steps` steps, counted from 0."""

    total_steps: int
    warmup_steps: int
    """Steps over which the learning rate rises linearly."""
    warmdown_fraction: float
    """Fraction of the run, at its end, over which the learning rate falls linearly."""
    final_lr: float
    """Learning rate at the end, as a fraction of the peak."""
    momentum_warmup_steps: int
    momentum_start: float = 0.85
    momentum_peak: float = 0.97
    momentum_final: float = 0.90

    def lr(self, step: int) -> float:
        """Multiplier of every learning rate, above 0 and up to 1.

        The last step has `final_lr`, unless it is the only one or that is 0, which comes after the last step then.
        """
        if self.total_steps == 1:
            return 1.0
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        return 1 - self._warmdown(step if self.final_lr else step - 1) * (1 - self.final_lr)

    def momentum(self, step: int) -> float:
        """Muon's momentum: rises during its warmup, falls during the warmdown."""
        rise = min(1.0, step / self.momentum_warmup_steps) if self.momentum_warmup_steps else 1.0
        risen = self.momentum_start + rise * (self.momentum_peak - self.momentum_start)
        return risen + self._warmdown(step) * (self.momentum_final - risen)

    def weight_decay(self, step: int) -> float:
        """Multiplier of the weight decay: half a cosine period from 1 to 0."""
        return 0.5 * (1 + math.cos(math.pi * step / max(1, self.total_steps)))

    def _warmdown(self, step: int) -> float:
        """Progress of the warmdown: 0 before it, 1 at the last step."""
        length = self.warmdown_fraction * self.total_steps
        return min(1.0, max(0.0, (step + 1 - (self.total_steps - length)) / length)) if length else 0.0
