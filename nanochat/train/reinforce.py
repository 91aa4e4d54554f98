"""One step of reinforcement: sample, score, and update the model by the policy gradient.

Shapes: G prompts, B samples of a micro-batch, T tokens.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import torch
from torch import Tensor

from nanochat.batches.position import DataIdentity
from nanochat.eval.batching import length_batches, pad_right
from nanochat.metrics_rows import RolloutRow
from nanochat.model.gpt import GPT
from nanochat.model.loss import IGNORE
from nanochat.train.objective import PolicyObjective, advantages, policy_loss, shares
from nanochat.train.rollouts import Group, Rollout, RolloutSource
from nanochat.train.state import Trainer
from nanochat.train.step import StepResult, Update, apply_gradients


@dataclass(frozen=True)
class Lesson:
    """A rollout with its prompt, advantage and share of the loss."""

    prompt_ids: Sequence[int]
    rollout: Rollout
    advantage: float
    share: float

    @property
    def length(self) -> int:
        """Inputs, which are all tokens but the last."""
        return len(self.prompt_ids) + len(self.rollout.ids) - 1


def lessons(groups: Sequence[Group], objective: PolicyObjective, limit: int) -> list[Lesson]:
    """The rollouts of an update that have a gradient; without a KL term those with an advantage, which saves time."""
    rewards_GS = torch.tensor([[rollout.reward for rollout in group.rollouts] for group in groups])
    advantages_GS = advantages(rewards_GS, objective).tolist()
    weights = iter(shares([r.length for group in groups for r in group.rollouts], limit, objective.normalise))
    every = [
        Lesson(group.prompt_ids, rollout, advantage, next(weights))
        for group, own in zip(groups, advantages_GS, strict=True)
        for rollout, advantage in zip(group.rollouts, own, strict=True)
    ]
    return [lesson for lesson in every if lesson.advantage or objective.kl]


@dataclass
class Tally:
    """Sums over the tokens that an update trained on."""

    tokens: float = 0.0
    gap: float = 0.0
    gap_max: float = 0.0
    clipped: float = 0.0
    kl: float = 0.0

    def add(self, other: "Tally") -> None:
        """Add another tally."""
        self.tokens += other.tokens
        self.gap += other.gap
        self.gap_max = max(self.gap_max, other.gap_max)
        self.clipped += other.clipped
        self.kl += other.kl


def backward(
    model: GPT, reference: GPT | None, batch: Sequence[Lesson], objective: PolicyObjective, tally: Tally
) -> Tensor:
    """Add a micro-batch's gradients to the model's; returns its part of the loss."""
    device = model.head.weight.device
    ids = [[*lesson.prompt_ids, *lesson.rollout.ids] for lesson in batch]
    starts = [len(lesson.prompt_ids) - 1 for lesson in batch]
    inputs_BT = pad_right([row[:-1] for row in ids], 0, device)
    targets_BT = torch.full_like(inputs_BT, IGNORE)
    sampling_BT = torch.zeros(inputs_BT.shape, device=device)
    for row, (lesson, start) in enumerate(zip(batch, starts, strict=True)):
        rollout = lesson.rollout
        place = slice(start, start + len(rollout.ids))
        chosen = [token if own else IGNORE for token, own in zip(rollout.ids, rollout.sampled, strict=True)]
        targets_BT[row, place] = torch.tensor(chosen, device=device)
        sampling_BT[row, place] = torch.tensor(rollout.logprobs, device=device)
    sampled_BT = targets_BT != IGNORE
    logprobs_BT = model.token_logprobs(model(inputs_BT), targets_BT)
    reference_BT = None
    if reference is not None:
        with torch.no_grad():
            reference_BT = -reference.token_losses(reference(inputs_BT), targets_BT)
    made = policy_loss(
        logprobs_BT,
        sampled_BT,
        sampling_BT,
        reference_BT,
        torch.tensor([lesson.advantage for lesson in batch], device=device),
        torch.tensor([lesson.share for lesson in batch], device=device),
        objective,
    )
    made.loss.backward()
    gap_BT = (logprobs_BT.detach() - sampling_BT).abs().masked_fill(~sampled_BT, 0.0)
    figures = torch.stack([sampled_BT.sum(), gap_BT.sum(), gap_BT.max(), made.clipped, made.kl])
    tally.add(Tally(*figures.tolist()))
    return made.loss.detach()


@dataclass
class Clock:
    """Seconds by activity."""

    seconds: dict[str, float] = field(default_factory=dict)
    _at: float = field(default_factory=time.perf_counter)

    def lap(self, activity: str) -> None:
        """Count the time since the last lap for an activity."""
        now = time.perf_counter()
        self.seconds[activity] = self.seconds.get(activity, 0.0) + now - self._at
        self._at = now

    def of(self, activity: str) -> float:
        """The seconds of an activity."""
        return self.seconds.get(activity, 0.0)


@dataclass
class ReinforceStep:
    """The step of `nanochat rl`, called with the trainer. `latest` holds the last step's groups and figures."""

    source: RolloutSource
    objective: PolicyObjective
    reference: GPT | None
    updates: int
    """Optimiser updates per step, each on its part of the groups."""
    micro_tokens: int
    """Most tokens of a micro-batch, padding included."""
    identity: DataIdentity
    latest: tuple[list[Group], RolloutRow] | None = None

    def __call__(self, trainer: Trainer) -> StepResult:
        """Sample, update and advance `trainer.progress`."""
        clock, tally, progress = Clock(), Tally(), trainer.progress
        self.source.sampler.refresh()
        clock.lap("refresh")
        groups = self.source.draw()
        clock.lap("rollouts")
        parts = [
            groups[i * len(groups) // self.updates : (i + 1) * len(groups) // self.updates]
            for i in range(self.updates)
        ]
        made = [self._update(trainer, part, tally, clock) for part in parts]
        self.source.sampler.stale = True
        clock.lap("other")
        tokens = sum(rollout.length for group in groups for rollout in group.rollouts)
        result = StepResult(
            loss=fmean(update.loss for update in made),
            grad_norm=fmean(update.grad_norm for update in made),
            skipped=any(update.skipped for update in made),
            tokens=tokens,
            seconds=sum(clock.seconds.values()),
            lr=made[-1].lr,
            shown={"reward": f"{_mean(groups, lambda rollout: rollout.reward):.3f}"},
        )
        position = self.source.prompts.position_after(progress.position, self.identity, len(groups))
        trainer.progress = progress.after_step(tokens, result.skipped, result.seconds, position)
        self.latest = groups, _row(trainer.progress.step, groups, tally, clock, self.reference is not None)
        return result

    def _update(self, trainer: Trainer, groups: Sequence[Group], tally: Tally, clock: Clock) -> Update:
        processes, device = trainer.runtime.processes, trainer.runtime.device
        every = lessons(groups, self.objective, self.source.sampler.limit)
        if not every:  # on every process: they have the same groups
            return Update(0.0, 0.0, False, trainer.schedule.lr(trainer.progress.step))
        mine = every[processes.rank :: processes.world_size]
        own, total = Tally(), torch.zeros((), device=device)
        with processes.together("the gradients"):
            for batch in length_batches([lesson.length for lesson in mine], self.micro_tokens):
                lot = [mine[i] for i in batch]
                total += backward(trainer.model, self.reference, lot, self.objective, own)
        for part in processes.gather(own):
            tally.add(part)
        total = processes.sum(total)
        clock.lap("gradients")
        update = apply_gradients(trainer, total)
        clock.lap("optimizer")
        return update


def _mean(groups: Sequence[Group], figure: Callable[[Rollout], float]) -> float:
    return fmean(figure(rollout) for group in groups for rollout in group.rollouts)


def _row(step: int, groups: Sequence[Group], tally: Tally, clock: Clock, referenced: bool) -> RolloutRow:
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    sampled = sum(rollout.length for rollout in rollouts)
    trained = max(tally.tokens, 1.0)
    return RolloutRow(
        step=step,
        prompts=len(groups),
        samples=len(rollouts),
        reward=_mean(groups, lambda rollout: rollout.reward),
        rewards={name: fmean(r.rewards[name] for r in rollouts) for name in rollouts[0].rewards},
        right=_mean(groups, lambda rollout: float(rollout.right)),
        informative=fmean(group.informative for group in groups),
        length=sampled / len(rollouts),
        cut=_mean(groups, lambda rollout: float(not rollout.ended)),
        tool_calls=_mean(groups, lambda rollout: float(rollout.tool_calls)),
        nats=-sum(sum(rollout.logprobs) for rollout in rollouts) / max(sampled, 1),
        logprob_gap=tally.gap / trained,
        logprob_gap_max=tally.gap_max,
        clipped=tally.clipped / trained,
        kl=tally.kl / trained if referenced else None,
        rollout_tok_per_s=sampled / clock.of("rollouts"),
        rollout_s=clock.of("rollouts"),
        gradient_s=clock.of("gradients"),
        optimizer_s=clock.of("optimizer"),
        refresh_s=clock.of("refresh"),
        other_s=clock.of("other"),
    )
