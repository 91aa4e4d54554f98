"""Rollouts: samples of a task's training items by the engine, with tools, and what they are worth.

The prompts of a step and the seed of every sample are a pure function of the run's seed and of how many prompts came
before, whatever the number of processes: each process samples its share of the prompts, then all have all groups.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from statistics import fmean

from nanochat.eval.intervals import pass_at
from nanochat.eval.task_accuracy import final_text
from nanochat.infer.engine import Engine
from nanochat.infer.request import Completion
from nanochat.infer.sampler import SamplingParams
from nanochat.model.gpt import GPT
from nanochat.processes import Processes
from nanochat.tasks.task import Item, Task
from nanochat.tokenizer.chat_format import Message, parse_reply, render_prompt
from nanochat.tokenizer.tokenizer import Tokenizer
from nanochat.train.rewards import Attempt, Rewards
from nanochat.train.shuffled import Shuffled

MOST_ROUNDS = 4
"""Of dynamic sampling: how often a step draws further prompts before it takes what it has."""


@dataclass(frozen=True)
class Rollout:
    """One sampled reply."""

    ids: list[int]
    sampled: list[bool]
    """False for tokens that a tool forced."""
    logprobs: list[float]
    """Of each token when it was sampled; 0 for forced ones."""
    parts: list[dict[str, str]]
    ended: bool
    right: bool
    reason: str
    """What is wrong with it; empty if it is right."""
    rewards: dict[str, float]

    @property
    def reward(self) -> float:
        """The sum of all rewards."""
        return sum(self.rewards.values())

    @property
    def length(self) -> int:
        """Tokens that the model sampled."""
        return sum(self.sampled)

    @property
    def tool_calls(self) -> int:
        """How often it called the tool."""
        return sum(part["type"] == "python" for part in self.parts)


@dataclass(frozen=True)
class Group:
    """The samples of one prompt."""

    index: int
    """Of the item in the task's split."""
    messages: Sequence[Message]
    """The conversation up to the question."""
    expected: str
    prompt_ids: list[int]
    rollouts: list[Rollout]

    @property
    def prompt(self) -> str:
        """The question."""
        return str(self.messages[-1]["content"])

    @property
    def informative(self) -> bool:
        """Whether its rewards differ."""
        return len({rollout.reward for rollout in self.rollouts}) > 1

    def pass_at(self, k: int) -> float:
        """The probability that k of the samples hold a right one."""
        return pass_at(k, len(self.rollouts), sum(rollout.right for rollout in self.rollouts))


@dataclass
class Sampler:
    """The engine on the weights in training. `model` may have changed since: call `refresh` before sampling."""

    model: GPT
    engine: Engine
    tokenizer: Tokenizer
    task: Task
    rewards: Rewards
    limit: int
    """The most tokens of a reply."""
    stale: bool = False

    def refresh(self) -> float:
        """Give the engine the model's weights if they changed; returns the seconds taken."""
        began = time.perf_counter()
        if self.stale:
            self.engine.reload(self.model)
            self.stale = False
        return time.perf_counter() - began

    def prompt_ids(self, item: Item) -> list[int] | None:
        """The item's prompt, or None if it leaves no room for a reply of half the limit."""
        ids = render_prompt(self.tokenizer, item.messages)
        return ids if len(ids) + self.limit // 2 < self.engine.max_seq_len else None

    def groups(
        self,
        asked: Sequence[tuple[int, Item, list[int]]],
        samples: int,
        seeds: Sequence[int],
        temperature: float = 1.0,
    ) -> list[Group]:
        """`samples` replies to each (index, item, prompt). For training, sampled at temperature 1 from all tokens,
        because the gradient is that of the model's own distribution."""
        params = [
            SamplingParams(temperature, max_new_tokens=self.limit, seed=seed + sample, logprobs=0)
            for seed in seeds
            for sample in range(samples)
        ]
        prompts = [prompt for _, _, prompt in asked for _ in range(samples)]
        completions = iter(self.engine.generate(prompts, params))
        return [
            Group(
                index,
                item.messages,
                item.answer,
                prompt,
                [self._rollout(item, next(completions)) for _ in range(samples)],
            )
            for index, item, prompt in asked
        ]

    def _rollout(self, item: Item, completion: Completion) -> Rollout:
        text = final_text(self.tokenizer, completion)
        parts = parse_reply(self.tokenizer, completion.ids)
        sampled = [not forced for forced in completion.forced_mask]
        score = self.task.check(item, text)
        ended = completion.finish_reason == "stop"
        attempt = Attempt(item, text, parts, score, sum(sampled), self.limit, ended)
        return Rollout(
            completion.ids,
            sampled,
            [entry.logprob if entry else 0.0 for entry in completion.logprobs],
            parts,
            ended,
            score.right,
            score.reason,
            self.rewards.of(attempt),
        )


@dataclass
class RolloutSource:
    """Groups for a step, the same on every process."""

    sampler: Sampler
    prompts: Shuffled[Item]
    processes: Processes
    prompts_per_step: int
    samples: int
    dynamic: bool
    """Replace groups whose rewards do not differ by those of further prompts."""

    def draw(self) -> list[Group]:
        """The next step's groups."""
        kept: list[Group] = []
        spare: list[Group] = []
        for _ in range(MOST_ROUNDS if self.dynamic else 1):
            for group in self._round():
                (kept if group.informative or not self.dynamic else spare).append(group)
            if len(kept) >= self.prompts_per_step:
                break
        return [*kept, *spare][: self.prompts_per_step]

    def _round(self) -> list[Group]:
        asked, seeds = [], []
        for _ in range(self.prompts_per_step):
            place, index, item, ids = self._fitting()
            asked.append((index, item, ids))
            seeds.append(sample_seed(self.prompts.seed, place))
        mine = self.processes.share(len(asked))
        with self.processes.together("sampling"):
            own = self.sampler.groups(
                asked[mine.start : mine.stop], self.samples, seeds[mine.start : mine.stop]
            )
        return [group for part in self.processes.gather(own) for group in part]

    def _fitting(self) -> tuple[int, int, Item, list[int]]:
        for place, index, item in islice(self.prompts, len(self.prompts.items)):
            ids = self.sampler.prompt_ids(item)
            if ids is not None:
                return place, index, item, ids
        raise ValueError("no prompt of the task leaves room for a reply in the model's context")


def sample_seed(seed: int, place: int) -> int:
    """The seed of a prompt's first sample; the others follow it."""
    return int.from_bytes(blake2b(f"{seed}:{place}".encode(), digest_size=7).digest(), "little")


def held_out_groups(
    sampler: Sampler,
    items: Sequence[Item],
    samples: int,
    processes: Processes,
    *,
    seed: int = 0,
    temperature: float = 1.0,
) -> list[Group]:
    """Samples of held-out items, shared over the processes; the same seeds at every call."""
    fitting = [
        (i, item, ids) for i, item in enumerate(items) if (ids := sampler.prompt_ids(item)) is not None
    ]
    if not fitting:
        raise ValueError("no held-out prompt leaves room for a reply in the model's context")
    seeds = [sample_seed(seed, -1 - index) for index, _, _ in fitting]
    mine = processes.share(len(fitting))
    with processes.together("sampling held-out items"):
        part = slice(mine.start, mine.stop)
        own = sampler.groups(fitting[part], samples, seeds[part], temperature)
    return [group for part in processes.gather(own) for group in part]


def pass_rates(groups: Sequence[Group], ks: Sequence[int]) -> dict[int, float]:
    """The mean probability that k samples of a prompt hold a right one, by k."""
    return {k: fmean(group.pass_at(k) for group in groups) for k in ks}
