"""The objectives of reinforcement learning: from rewards to the loss of each sampled token. Pure functions of tensors.

    loss = Σ_i w_i Σ_t [ -A_i · logp_it  +  kl · (exp(d_it) - d_it - 1) ]        d = reference logp - logp

over the samples i of a step and the tokens t that the model sampled. A_i is the sample's advantage (`advantages`), w_i
its share of the loss (`shares`). With clipping, -A · logp becomes -min(ρ A, clip(ρ, 1 - low, 1 + high) A) with
ρ = exp(logp - logp at sampling), as in PPO (arXiv:1707.06347). docs/rl.md has the switch of every term.
Shapes: G prompts, S samples of each, B = samples of a batch, T tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Baseline = Literal["mean", "none"]
Scale = Literal["none", "std"]
Normalise = Literal["tokens", "sequences", "constant"]
ObjectiveName = Literal["reinforce", "grpo", "dr-grpo", "dapo"]

_STD_EPS = 1e-4


@dataclass(frozen=True)
class PolicyObjective:
    """The switches. Raises ValueError for a clip or weight that is negative, and for a scale without a baseline."""

    baseline: Baseline = "mean"
    """What is subtracted from a reward: the mean of its prompt's samples, or nothing."""
    scale: Scale = "none"
    """What the result is divided by: nothing, or the standard deviation of the prompt's samples."""
    normalise: Normalise = "tokens"
    """Weight of a sample's tokens: all tokens of the step alike; all samples alike; or a constant, the token limit."""
    clip_low: float | None = None
    """How far ρ may fall below 1 where that raises the objective; None: no ρ, the plain policy gradient."""
    clip_high: float | None = None
    """How far ρ may rise above 1; more than `clip_low` is DAPO's clip-higher."""
    kl: float = 0.0
    """Weight of the divergence from the reference policy, the checkpoint that the run starts from."""
    dynamic: bool = False
    """Draw prompts until the step is full of those whose samples differ in reward."""

    def __post_init__(self) -> None:
        if self.scale == "std" and self.baseline == "none":
            # Samples of equal reward would be divided by almost nothing, and drown all others.
            raise ValueError("--scale std needs --baseline mean: choose it, or --scale none")
        if (self.clip_low is None) != (self.clip_high is None):
            raise ValueError("--clip-low and --clip-high belong together: give both or neither")
        if min(self.clip_low or 0.0, self.clip_high or 0.0, self.kl) < 0 or (self.clip_low or 0.0) > 1:
            raise ValueError("--clip-low must be between 0 and 1, --clip-high and --kl at least 0")


OBJECTIVES: Mapping[ObjectiveName, PolicyObjective] = {
    "reinforce": PolicyObjective(),
    "grpo": PolicyObjective(scale="std", normalise="sequences", clip_low=0.2, clip_high=0.2, kl=0.04),
    "dr-grpo": PolicyObjective(normalise="constant", clip_low=0.2, clip_high=0.2),
    "dapo": PolicyObjective(scale="std", clip_low=0.2, clip_high=0.28, dynamic=True),
}
"""arXiv:2402.03300, arXiv:2503.20783 and arXiv:2503.14476; the first is on-policy REINFORCE with a baseline."""


def advantages(rewards_GS: Tensor, objective: PolicyObjective) -> Tensor:
    """How much better than its prompt's samples each one is, (G, S)."""
    return _SCALE[objective.scale](_BASELINE[objective.baseline](rewards_GS))


def _minus_mean(rewards_GS: Tensor) -> Tensor:
    """Rewards less their mean; exactly 0 where all are equal, whatever the rounding of their mean."""
    equal_G1 = (rewards_GS == rewards_GS[:, :1]).all(dim=1, keepdim=True)
    return (rewards_GS - rewards_GS.mean(dim=1, keepdim=True)).masked_fill(equal_G1, 0.0)


_BASELINE: Mapping[Baseline, Callable[[Tensor], Tensor]] = {
    "mean": _minus_mean,
    "none": lambda rewards_GS: rewards_GS,
}
_SCALE: Mapping[Scale, Callable[[Tensor], Tensor]] = {
    "none": lambda values_GS: values_GS,
    "std": lambda values_GS: values_GS / (values_GS.std(dim=1, correction=0, keepdim=True) + _STD_EPS),
}


def shares(lengths: Sequence[int], limit: int, normalise: Normalise) -> list[float]:
    """w_i: the weight of each token of a sample, from the sampled tokens of every sample of an update.

    `limit` is the most tokens that a sample may have.
    """
    return _SHARES[normalise](lengths, limit)


_SHARES: Mapping[Normalise, Callable[[Sequence[int], int], list[float]]] = {
    "tokens": lambda lengths, _: [1 / max(1, sum(lengths))] * len(lengths),
    "sequences": lambda lengths, _: [1 / (len(lengths) * max(1, length)) for length in lengths],
    "constant": lambda lengths, limit: [1 / (len(lengths) * limit)] * len(lengths),
}


class PolicyLoss(NamedTuple):
    """`loss` has gradients; the others are sums over the sampled tokens, without."""

    loss: Tensor
    clipped: Tensor
    """Tokens whose gradient the clip takes away."""
    kl: Tensor
    """The divergence from the reference in nats; 0 without a reference."""


def policy_loss(
    logprobs_BT: Tensor,
    sampled_BT: Tensor,
    sampling_logprobs_BT: Tensor,
    reference_logprobs_BT: Tensor | None,
    advantages_B: Tensor,
    shares_B: Tensor,
    objective: PolicyObjective,
) -> PolicyLoss:
    """The loss of a batch's sampled tokens.

    Args:
        logprobs_BT: of each token under the model in training, with gradients.
        sampled_BT: True for tokens that the model chose; prompts, tool outputs and padding get no gradient.
        sampling_logprobs_BT: of each token when it was sampled.
        reference_logprobs_BT: under the reference policy; needed if `objective.kl` is not 0.
        advantages_B, shares_B: of each sample.
    """
    advantages_B1 = advantages_B[:, None]
    if objective.clip_low is None or objective.clip_high is None:
        terms_BT = -advantages_B1 * logprobs_BT
        clipped_BT = torch.zeros_like(sampled_BT)
    else:
        ratios_BT = (logprobs_BT - sampling_logprobs_BT).masked_fill(~sampled_BT, 0.0).exp()
        bounded_BT = ratios_BT.clamp(1 - objective.clip_low, 1 + objective.clip_high)
        terms_BT = -torch.minimum(ratios_BT * advantages_B1, bounded_BT * advantages_B1)
        clipped_BT = sampled_BT & (bounded_BT * advantages_B1 < ratios_BT * advantages_B1)
    kl = torch.zeros((), device=logprobs_BT.device)
    if reference_logprobs_BT is not None:
        kl_BT = divergence(logprobs_BT, reference_logprobs_BT, sampled_BT)
        terms_BT = terms_BT + objective.kl * kl_BT
        kl = kl_BT.detach().sum()
    weighted_BT = torch.where(sampled_BT, terms_BT, 0.0) * shares_B[:, None]
    return PolicyLoss(weighted_BT.sum(), clipped_BT.sum(), kl)


def divergence(logprobs_BT: Tensor, reference_logprobs_BT: Tensor, sampled_BT: Tensor) -> Tensor:
    """The k3 estimate of each sampled token's divergence: never negative, and right on average for tokens drawn
    from the model (Schulman, http://joschu.net/blog/kl-approx.html)."""
    difference_BT = (reference_logprobs_BT - logprobs_BT).masked_fill(~sampled_BT, 0.0)
    return difference_BT.exp() - difference_BT - 1


def preference_loss(
    chosen_B: Tensor,
    rejected_B: Tensor,
    reference_chosen_B: Tensor,
    reference_rejected_B: Tensor,
    beta: float,
) -> tuple[Tensor, Tensor]:
    """(loss of each pair, its margin) by direct preference optimisation (arXiv:2305.18290).

    The arguments are log-probabilities of whole answers, summed over their tokens. The margin is how much more the
    chosen answer gained on the reference than the rejected one, times beta; the loss is -log sigmoid of it.
    """
    margin_B = beta * ((chosen_B - reference_chosen_B) - (rejected_B - reference_rejected_B))
    return -torch.nn.functional.logsigmoid(margin_B), margin_B


def with_switches(name: ObjectiveName, **switches: object) -> PolicyObjective:
    """The named objective with the switches that are not None in place of its own."""
    given = {switch: value for switch, value in switches.items() if value is not None}
    return replace(OBJECTIVES[name], **given)  # type: ignore[arg-type]
