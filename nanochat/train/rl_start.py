"""What is settled before the first step of reinforcement: memory, and whether there is anything to reinforce."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import fmean

from nanochat.checkpoint.loading import OpenCheckpoint
from nanochat.console import say, warn
from nanochat.infer.cache import row_bytes
from nanochat.model.backend import memory_model
from nanochat.model.cost import parameter_counts, training_bytes
from nanochat.runtime import Runtime
from nanochat.tasks.task import Item
from nanochat.train.machine import device_memory
from nanochat.train.rollouts import Group, Sampler, held_out_groups, pass_rates
from nanochat.train.shuffled import Shuffled
from nanochat.train.state import Trainer

ROLLOUT_ROWS = {"cuda": 256, "mps": 32, "cpu": 64}
"""Samples that a step generates at once, by kind of device."""
TRIED_PROMPTS = 32
"""Training prompts that are sampled before the first step."""
_SHOWN = 160  # characters of a prompt and a reply in a message
PASS_KS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class StepMemory:
    """What one device holds during a step."""

    engine_rows: int
    """Samples that are generated at once."""
    micro_rows: int
    """Rows of the context's length in a micro-batch."""
    bytes: int


def plan_memory(
    source: OpenCheckpoint, runtime: Runtime, rows: int, micro_rows: int, models: int
) -> StepMemory:
    """As many of `rows` samples at once as fit beside training on `micro_rows` rows, and print what it takes.

    `models`: copies of the weights besides the one in training: the engine's, and the reference's.
    Raises ValueError if not even one sample fits.
    """
    config, limit = source.config, device_memory(runtime)
    memory = memory_model(runtime.device.type, runtime.compute_dtype)
    training = training_bytes(config, micro_rows * config.max_seq_len, runtime.processes.world_size, memory)
    fixed = training + 4 * models * sum(parameter_counts(config).values())
    one = row_bytes(config, config.max_seq_len, runtime.compute_dtype)
    fitting = min(rows, (limit - fixed) // one)
    if fitting < 1:
        raise ValueError(
            f"training needs {fixed / 1e9:.2f} GB and each sample {one / 1e6:.1f} MB, but there are "
            f"{limit / 1e9:.2f} GB on each device: choose a smaller --device-batch-size or model"
        )
    planned = StepMemory(fitting, micro_rows, fixed + fitting * one)
    say(
        f"memory: about {planned.bytes / 1e9:.2f} GB per device, {fitting} samples at once; micro-batches of "
        f"{micro_rows * config.max_seq_len:,} tokens"
    )
    return planned


def try_out(sampler: Sampler, items: Sequence[Item], samples: int, seed: int, runtime: Runtime) -> None:
    """Sample some training prompts and print what there is to reinforce.

    Raises ValueError if no sample is right and rewards do not differ: then no gradient ever comes.
    """
    prompts = [item for _, _, item in islice(Shuffled(items, seed), min(TRIED_PROMPTS, len(items)))]
    groups = held_out_groups(sampler, prompts, samples, runtime.processes, seed=seed)
    right = [rollout.right for group in groups for rollout in group.rollouts]
    informative = fmean(group.informative for group in groups)
    tried = f"{len(right)} samples of {len(groups)} training prompts"
    if not any(right) and not informative:
        raise ValueError(
            f"nothing to reinforce: none of {tried} is right, and their rewards do not differ. "
            f"{_advice(sampler, groups)}"
        )
    if not any(right):
        warn(
            f"none of {tried} is right; only partial credit differs, for {informative:.0%} of the prompts, "
            f"and it may lead nowhere. {_advice(sampler, groups)}"
        )
    elif not informative:
        warn(f"all samples of a prompt have the same reward, in {tried}: there is little to learn")
    say(
        f"before: {fmean(right):.1%} of {tried} are right; rewards differ for {informative:.0%} of the prompts"
    )


def _advice(sampler: Sampler, groups: Sequence[Group]) -> str:
    taught = f"Fine-tune on it first (nanochat sft --mixture builtin+{sampler.task.name})"
    if sampler.task.conversation is None:
        taught = "Fine-tune on similar conversations first"
    first = groups[0]
    said = "".join(part["text"] for part in first.rollouts[0].parts)
    return (
        f"{taught}, choose an easier --task, or take more --samples. "
        f"For instance, to {first.prompt[:_SHOWN]!r} it says {said[:_SHOWN]!r}"
    )


def scorer(
    sampler: Sampler, items: Sequence[Item], samples: int, runtime: Runtime
) -> Callable[[Trainer], dict[str, float]]:
    """A function that answers held-out items: greedily for the accuracy, by `samples` samples for pass@k."""

    def score(trainer: Trainer) -> dict[str, float]:
        with runtime.processes.together("giving the engine the weights"):
            sampler.refresh()
        greedy = held_out_groups(sampler, items, 1, runtime.processes, temperature=0.0)
        sampled = held_out_groups(sampler, items, samples, runtime.processes)
        rates = pass_rates(sampled, [k for k in PASS_KS if k <= samples])
        return {
            "accuracy": pass_rates(greedy, (1,))[1],
            **{f"pass_at_{k}": rate for k, rate in rates.items()},
        }

    return score
