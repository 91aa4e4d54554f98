"""Reinforcement learning: a chat model learns from the rewards of its own answers, in the house's loop."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import tyro

from nanochat.batches.position import DataIdentity, check_identity
from nanochat.bounds import require_not_negative, require_positive, require_share
from nanochat.checkpoint.loading import OpenCheckpoint
from nanochat.checkpoint.meta import CheckpointMeta
from nanochat.infer.engine import Engine
from nanochat.model.backend import choose_backend
from nanochat.model.cost import flops_per_token
from nanochat.optim.groups import LearningRates
from nanochat.paths import CHAT_RUN, RL_RUN
from nanochat.runtime import Runtime
from nanochat.tasks.registry import TASKS
from nanochat.tasks.task import Item, ItemSplit, Task
from nanochat.text.own_files import absolute
from nanochat.train.objective import (
    Baseline,
    Normalise,
    ObjectiveName,
    PolicyObjective,
    Scale,
    with_switches,
)
from nanochat.train.options import TrainingOptions
from nanochat.train.reinforce import ReinforceStep
from nanochat.train.resuming import (
    alone,
    begin_or_resume,
    begun_native,
    on_backend,
    require_same_flags,
    saved_run,
)
from nanochat.train.rewards import parse_rewards, rewards_digest
from nanochat.train.rl_start import PASS_KS, ROLLOUT_ROWS, plan_memory, scorer, try_out
from nanochat.train.rollout_files import KeepRollouts
from nanochat.train.rollouts import RolloutSource, Sampler
from nanochat.train.session import Session, TrainingResult, make_trainer
from nanochat.train.shuffled import Shuffled
from nanochat.train.successor import described, open_source, planned_from, policy_plan

Learn = Literal["matrices", "all"]
_LEARN: Mapping[Learn, Callable[[LearningRates], LearningRates]] = {
    "matrices": lambda rates: replace(rates.scaled(0.0), matrix=rates.matrix, weight_decay=0.0),
    "all": lambda rates: replace(rates, weight_decay=0.0),
}


@dataclass(frozen=True)
class RlConfig(TrainingOptions):
    """Reinforce what earns a reward: on-policy REINFORCE, or another --objective (docs/rl.md)."""

    from_tag: str = CHAT_RUN
    """Run to start from: its model tag, or the path of its checkpoints; RUN@STEP for an older step."""
    task: str = "builtin-thousands"
    """The task whose training items are the prompts and whose check is the reward."""
    model_tag: str = RL_RUN
    """Name of the new run and of its folders of checkpoints and metrics."""
    num_iterations: int = 120
    """Steps: samples are drawn, scored and learned from once in each."""
    prompts_per_step: int = 16
    """Questions in a step, over all processes."""
    samples: int = 8
    """Replies to each prompt, which are compared with each other."""
    objective: ObjectiveName = "reinforce"
    """A named objective; each of the seven switches below replaces its own setting."""
    baseline: Annotated[Baseline | None, tyro.conf.arg(metavar="{mean,none}")] = None
    """Subtract the mean reward of the prompt's samples, or nothing."""
    scale: Annotated[Scale | None, tyro.conf.arg(metavar="{none,std}")] = None
    """Divide by their standard deviation, or by nothing."""
    normalise: Normalise | None = None
    """Weigh all tokens alike, all samples alike, or by a constant."""
    clip_low: float | None = None
    """Clipping: a token that lost more than this share of its probability since sampling is not lowered further."""
    clip_high: float | None = None
    """A token that gained more than this share is not raised further."""
    kl: float | None = None
    """Weight of the divergence from the run it starts from."""
    dynamic: bool | None = None
    """Draw further prompts in place of those whose samples earn the same."""
    rewards: str = "answer"
    """Sum of answer, right, format, tool and length, for instance answer+tool*0.1."""
    reward: str | None = None
    """A Python file whose function reward(attempt) returns a number, added to --rewards (which may be empty)."""
    updates: int = 1
    """Optimiser updates per step, each on its part of the prompts; with more than one, clip."""
    max_new_tokens: int | None = None
    """The most tokens of a reply; default: the task's."""
    lr_fraction: float = 0.05
    """Learning rates as a fraction of the peak rates of the starting run (of the fine-tuning before it, if that is an
    rl or dpo run)."""
    learn: Learn = "matrices"
    """What changes: the blocks' matrices, or all weights, which learns faster and moves answers to other questions."""
    warmdown: float = 1.0
    """Final fraction of the run, over which the learning rate falls to zero."""
    device_batch_size: int | None = None
    """Rows of the context's length per micro-batch; default: as in the run it starts from."""
    max_rows: int | None = None
    """Samples that are generated at once on one process; default: depends on the device."""
    eval_every: int = 30
    eval_items: int = 100
    """Held-out items sampled at each evaluation."""
    eval_samples: int = 8
    """Samples of each, for pass@1 up to pass@8: 1, 2, 4, 8 or 16."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "num_iterations", "prompts_per_step", "samples", "updates", "eval_items")
        require_positive(self, "max_new_tokens", "lr_fraction", "device_batch_size", "max_rows")
        require_share(self, "warmdown")
        require_not_negative(self, "kl")
        policy = self.policy()
        if self.samples < 2 and policy.baseline == "mean":
            raise ValueError("--samples must be at least 2: a lone sample has nothing to be compared with")
        if self.updates > self.prompts_per_step:
            raise ValueError(f"--updates {self.updates} needs at least as many --prompts-per-step")
        if self.eval_samples not in PASS_KS:
            raise ValueError(f"--eval-samples must be one of {', '.join(map(str, PASS_KS))}")
        if self.task not in TASKS:
            raise ValueError(f"unknown task {self.task!r}: choose from {', '.join(TASKS)}")

    def policy(self) -> PolicyObjective:
        """The objective with its overrides. Raises ValueError for values out of range."""
        names = ("baseline", "scale", "normalise", "clip_low", "clip_high", "kl", "dynamic")
        return with_switches(self.objective, **{name: getattr(self, name) for name in names})


# What, besides the plan, decides the course of a run.
_COURSE = (
    *("task", "prompts_per_step", "samples", "objective", "baseline", "scale", "normalise", "clip_low"),
    *("clip_high", "kl", "dynamic", "rewards", "updates", "max_new_tokens"),
)


@alone
def run(config: RlConfig, runtime: Runtime) -> TrainingResult:
    """Run reinforcement. Raises ValueError for a bad request, also one in which nothing could be learned."""
    if config.reward is not None:
        config = replace(config, reward=absolute(config.reward))
    rewards = parse_rewards(config.rewards, config.reward)
    directory = runtime.paths.checkpoints(config.model_tag)
    saved, runtime = saved_run(directory, config, runtime)
    source, task = open_source(config.from_tag, saved, runtime), TASKS[config.task]
    require_same_flags(saved, config, *_COURSE)
    items, held_out = (_items(task, split, config.seed, runtime) for split in ("train", "val"))
    meta = begin_or_resume(_planned(config, source, runtime.dtype), saved, config.model_tag)
    identity = _identity(config, source, len(items))
    check_identity(identity, meta.progress.position)
    policy, context, world_size = config.policy(), source.config.max_seq_len, runtime.processes.world_size
    samples = -(-config.prompts_per_step // world_size) * config.samples
    rows = min(config.max_rows or ROLLOUT_ROWS[runtime.device.type], samples)
    memory = plan_memory(source, runtime, rows, meta.plan.device_batch_size, models=2 if policy.kl else 1)
    flops = flops_per_token(source.config) * meta.plan.tokens
    backend = choose_backend(runtime, training_flops=flops, begun_native=begun_native(saved))
    meta = on_backend(meta, backend)
    model = source.load(backend).train()
    trainer = make_trainer(meta, directory, model, source.tokenizer, None, runtime)
    with runtime.processes.together("making the engine"):
        engine = Engine(model, source.tokenizer, max_rows=memory.engine_rows)
        engine.settle()
    limit = min(config.max_new_tokens or task.max_new_tokens, context // 2)
    sampler = Sampler(model, engine, source.tokenizer, task, rewards, limit)
    if not meta.step:
        try_out(sampler, items, config.samples, config.seed, runtime)
    prompts = Shuffled.resumed(items, config.seed, meta.progress.position)
    step = ReinforceStep(
        RolloutSource(
            sampler, prompts, runtime.processes, config.prompts_per_step, config.samples, policy.dynamic
        ),
        policy,
        source.load(backend).eval() if policy.kl else None,
        config.updates,
        memory.micro_rows * context,
        identity,
    )
    kept = runtime.paths.rollouts(config.model_tag)
    return Session(
        model_tag=config.model_tag,
        options=config,
        trainer=trainer,
        meta=meta,
        facts={"plan": described(meta), "dataset": config.task},
        score=scorer(sampler, held_out[: config.eval_items], config.eval_samples, runtime),
        step=step,
        hooks=lambda metrics: (KeepRollouts(step, kept, metrics, config.eval_every),),
        score_first=True,
    ).execute()


def _identity(config: RlConfig, source: OpenCheckpoint, items: int) -> DataIdentity:
    parts = f"{config.task}:{items}:{rewards_digest(config.rewards, config.reward)}"
    return DataIdentity(
        max_seq_len=source.config.max_seq_len,
        policy="rollouts",
        seed=config.seed,
        tokenizer=source.tokenizer.hash,
        data=hashlib.sha256(parts.encode()).hexdigest()[:16],
    )


def _items(task: Task, split: ItemSplit, seed: int, runtime: Runtime) -> Sequence[Item]:
    """A split's items; the first process downloads them before the others read them."""
    runtime.processes.decide(lambda: len(task.items(runtime.paths, split, seed)))
    items = task.items(runtime.paths, split, seed)
    runtime.processes.same(f"the number of {task.name}'s {split} items", len(items))
    return items


def _planned(config: RlConfig, source: OpenCheckpoint, dtype: str) -> CheckpointMeta:
    plan = policy_plan(
        source,
        steps=config.num_iterations,
        warmdown=config.warmdown,
        rates=_LEARN[config.learn](source.meta.plan.successor_basis.rates.scaled(config.lr_fraction)),
        batch_tokens=config.prompts_per_step * config.samples * source.config.max_seq_len,
        device_batch_size=config.device_batch_size,
        seed=config.seed,
        dtype=dtype,
    )
    return planned_from(source, "rl", config.from_tag, plan, config)
