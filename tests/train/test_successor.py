"""What runs that start from another run's checkpoint have in common."""

import pytest

from nanochat.train.dpo import DpoConfig
from nanochat.train.rl import RlConfig
from nanochat.train.session import TrainingOptions
from nanochat.train.sft import SftConfig


@pytest.mark.parametrize("stage", [SftConfig, RlConfig, DpoConfig])
@pytest.mark.parametrize(("flag", "value"), [("num_iterations", 0), ("eval_share", 2.0)])
def test_flags_out_of_range_are_refused_by_every_stage(
    stage: type[TrainingOptions], flag: str, value: float
) -> None:
    with pytest.raises(ValueError, match=f"--{flag.replace('_', '-')} must be .*above 0"):
        stage(**{flag: value})


@pytest.mark.parametrize("stage", [SftConfig, DpoConfig])
def test_a_run_without_epochs_is_refused(stage: type[SftConfig | DpoConfig]) -> None:
    with pytest.raises(ValueError, match="--epochs must be a number above 0, not -1"):
        stage(epochs=-1)
