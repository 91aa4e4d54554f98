"""The objectives against plain loops over samples and tokens, and against finite differences."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import Tensor

from nanochat.model.backend import REFERENCE
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.model.loss import IGNORE, linear_token_nats, softcapped
from nanochat.train.objective import (
    OBJECTIVES,
    ObjectiveName,
    PolicyObjective,
    advantages,
    policy_loss,
    shares,
    with_switches,
)

G, S, T, LIMIT = 3, 4, 6, 9


def case(seed: int = 0) -> dict[str, Tensor]:
    """Random samples: rewards, and per token the three log-probabilities and whether it was sampled."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    sampled = draw(G * S, T) < 0.7
    sampled[:, 0] = True
    old = -2 * draw(G * S, T)
    return {
        "rewards": (draw(G, S) * 3).floor(),
        "sampled": sampled,
        "old": old,
        "now": old + 0.8 * (draw(G * S, T) - 0.5),
        "reference": old + 0.8 * (draw(G * S, T) - 0.5),
    }


def by_hand(made: dict[str, Tensor], now: Tensor, objective: PolicyObjective) -> Tensor:
    """The loss, sample by sample and token by token, as the papers write it."""
    lengths = made["sampled"].sum(dim=1).tolist()
    total = torch.zeros((), dtype=torch.float64)
    for i in range(G * S):
        group = made["rewards"][i // S]
        advantage = group[i % S]
        if objective.baseline == "mean":
            advantage = advantage - group.sum() / S
        if objective.scale == "std":
            deviation = math.sqrt(sum((float(r) - float(group.sum()) / S) ** 2 for r in group) / S)
            advantage = advantage / (deviation + 1e-4)
        for t in range(T):
            if not made["sampled"][i, t]:
                continue
            if objective.clip_low is None:
                term = -advantage * now[i, t]
            else:
                ratio = torch.exp(now[i, t] - made["old"][i, t])
                low, high = 1 - objective.clip_low, 1 + objective.clip_high
                bounded = ratio if low <= ratio <= high else torch.tensor(low if ratio < low else high)
                term = -torch.minimum(ratio * advantage, bounded * advantage)
            if objective.kl:
                difference = made["reference"][i, t] - now[i, t]
                term = term + objective.kl * (torch.exp(difference) - difference - 1)
            weight = {
                "tokens": 1 / sum(lengths),
                "sequences": 1 / (G * S) / lengths[i],
                "constant": 1 / (G * S) / LIMIT,
            }[objective.normalise]
            total = total + weight * term
    return total


def ours(made: dict[str, Tensor], now: Tensor, objective: PolicyObjective) -> Tensor:
    lengths = made["sampled"].sum(dim=1).tolist()
    return policy_loss(
        now,
        made["sampled"],
        made["old"],
        made["reference"] if objective.kl else None,
        advantages(made["rewards"], objective).flatten(),
        torch.tensor(shares(lengths, LIMIT, objective.normalise), dtype=torch.float64),
        objective,
    ).loss


VARIANTS = [
    *OBJECTIVES.values(),
    PolicyObjective(baseline="none"),
    PolicyObjective(kl=0.3),
    PolicyObjective(normalise="sequences", clip_low=0.1, clip_high=0.3),
]


@pytest.mark.parametrize("objective", VARIANTS, ids=str)
def test_loss_and_gradient_are_those_of_the_formula(objective: PolicyObjective) -> None:
    made = case()
    gradients = []
    for make in (ours, by_hand):
        now = made["now"].clone().requires_grad_()
        loss = make(made, now, objective)
        gradients.append((loss.detach(), torch.autograd.grad(loss, now)[0]))
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("objective", VARIANTS, ids=str)
def test_the_gradient_is_that_of_finite_differences(objective: PolicyObjective) -> None:
    made = case(1)
    now = made["now"].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ours(made, x, objective), (now,), eps=1e-7, atol=1e-6)


@pytest.mark.parametrize("objective", VARIANTS, ids=str)
def test_what_the_model_did_not_choose_gets_no_gradient(objective: PolicyObjective) -> None:
    made = case(2)
    made["reference"][~made["sampled"]] = 1e4  # nor can it spoil the other gradients
    made["old"][~made["sampled"]] = -1e4
    now = made["now"].requires_grad_()
    (gradient,) = torch.autograd.grad(ours(made, now, objective), now)
    assert gradient.isfinite().all()
    assert (gradient[~made["sampled"]] == 0).all()
    assert (gradient[made["sampled"]] != 0).any()


def test_samples_that_are_all_alike_teach_nothing() -> None:
    for objective in OBJECTIVES.values():
        for reward in (1.0, 0.1, 0.9, 1 / 3):  # most are not their own mean in fp32
            for samples in (5, 6, 7, 8):
                assert not advantages(torch.full((2, samples), reward), objective).any()


def test_an_advantage_of_clipped_tokens_has_no_gradient() -> None:
    objective = with_switches("reinforce", clip_low=0.2, clip_high=0.28)
    one = torch.ones(1)
    for advantage, step, clipped in ((1.0, 0.5, 1), (1.0, -0.5, 0), (-1.0, -0.5, 1), (-1.0, 0.5, 0)):
        now = torch.full((1, 1), step, requires_grad=True)
        made = policy_loss(
            now, torch.tensor([[True]]), torch.zeros(1, 1), None, advantage * one, one, objective
        )
        assert made.clipped == clipped
        assert (torch.autograd.grad(made.loss, now)[0] == 0) == bool(clipped)


def test_a_scale_needs_a_baseline() -> None:
    """Equal rewards have no deviation: divided by it they would be ten thousand times those of other prompts."""
    with pytest.raises(ValueError, match="--scale std needs --baseline mean"):
        with_switches("grpo", baseline="none")


def test_switches_replace_those_of_the_named_objective() -> None:
    assert set(get_args(ObjectiveName)) == OBJECTIVES.keys()
    assert with_switches("grpo", kl=0.0, scale=None) == replace(OBJECTIVES["grpo"], kl=0.0)
    with pytest.raises(ValueError, match="belong together"):
        with_switches("reinforce", clip_low=0.2)
    with pytest.raises(ValueError, match="at least 0"):
        with_switches("reinforce", kl=-1.0)


def test_token_logprobs_have_the_gradient_of_plain_pytorch() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(7, 16), torch.randn(40, 16)
    targets, factors = torch.tensor([3, 9, IGNORE, 39, 0, 3, 8]), torch.randn(7)
    results = []
    for plain in (True, False):
        a, b = x.clone().requires_grad_(), weight.clone().requires_grad_()
        if plain:
            logits = softcapped(a @ b.T, 15.0)
            nats = torch.nn.functional.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="none")
        else:
            nats = linear_token_nats(a, b, targets, 15.0, 3)
        results.append((nats.detach(), *torch.autograd.grad((nats * factors).sum(), (a, b))))
    torch.testing.assert_close(results[0], results[1])


def test_the_models_logprobs_are_minus_its_losses() -> None:
    config = GPTConfig(max_seq_len=8, vocab_size=40, n_layer=1, n_head=1, n_kv_head=1, head_dim=16, n_embd=16)
    model = GPT(config, REFERENCE)
    model.init_weights(0)
    ids = torch.arange(16).view(2, 8)
    targets = ids + 1
    targets[0, :3] = IGNORE
    logprobs = model.token_logprobs(model(ids), targets)
    torch.testing.assert_close(logprobs.detach(), -model.token_losses(model(ids), targets))
    assert logprobs.requires_grad
