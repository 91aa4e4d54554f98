"""The dial for minutes: the depth and the steps of a run that ends in time on this machine.

Pure functions of what the parts of a run cost; `timing` measures those.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

from nanochat.checkpoint.meta import CheckpointMeta
from nanochat.model.backend import run_size
from nanochat.model.cost import horizon_parameters
from nanochat.regimes import REGIMES
from nanochat.scaling import Dial, RunPlan
from nanochat.train.hooks import SAVE_SHARE
from nanochat.train.options import PretrainOptions
from nanochat.train.resuming import require_same_flags

SMALLEST_DEPTH = 2
"""What a short time buys: no regime was tuned below it."""

RESERVE = 0.05
"""The share of the minutes that is planned for nothing: a run is slowed down more often than it is sped up."""

Planner = Callable[[Dial], RunPlan]
"""`make_plan` for this machine and vocabulary."""


@dataclass(frozen=True)
class Costs:
    """Seconds that the parts of a run take on this machine."""

    first_step_s: float
    """What the first step takes longer than the others: compiling, allocating."""
    step_s: float
    evaluation_s: float
    save_s: float
    samples_s: float


@dataclass(frozen=True)
class Measurement:
    """The costs of the run of a plan."""

    plan: RunPlan
    costs: Costs


@dataclass(frozen=True)
class Estimate:
    """Seconds of a whole run by part."""

    start_s: float
    """Everything up to the first step, the measuring included, and its warm-up."""
    training_s: float
    evaluation_s: float
    saving_s: float
    samples_s: float

    @property
    def total_s(self) -> float:
        """From the start of the process to its end."""
        return sum(asdict(self).values())


@dataclass(frozen=True)
class MinutesChoice:
    """A plan that takes the minutes asked, by the estimate."""

    plan: RunPlan
    costs: Costs
    estimate: Estimate

    @property
    def tokens_per_s(self) -> float:
        """Of training steps alone."""
        return self.plan.batch_tokens / self.costs.step_s


def check_minutes(dial: Dial) -> None:
    """Raise ValueError for minutes that contradict --num-iterations."""
    if dial.minutes is not None and dial.num_iterations is not None:
        raise ValueError("--minutes chooses the steps: leave out --num-iterations")


def estimate(costs: Costs, steps: int, options: PretrainOptions, start_s: float) -> Estimate:
    """The time of a run of `steps` steps that starts training `start_s` seconds after its process."""
    training_s = steps * costs.step_s
    evaluations = _occasions(options.eval_every, steps)
    if costs.evaluation_s and evaluations > 1 and options.eval_share < 1:
        allowed_s = training_s * options.eval_share / (1 - options.eval_share)
        before_end = max(1, int(allowed_s / costs.evaluation_s))  # the first is never put off
        evaluations = min(evaluations, before_end + 1)
    evaluation_s = evaluations * costs.evaluation_s
    saves = _occasions(options.save_every, steps)
    if options.save_minutes > 0:
        between_s = max(60 * options.save_minutes, costs.save_s / SAVE_SHARE)
        saves += int((training_s + evaluation_s) / between_s)
    return Estimate(
        start_s=start_s + costs.first_step_s,
        training_s=training_s,
        evaluation_s=evaluation_s,
        saving_s=saves * costs.save_s,
        samples_s=_occasions(options.sample_every, steps) * costs.samples_s,
    )


def _occasions(interval: int, steps: int) -> int:
    """How often something happens that is due every `interval` steps (0: never) and at the end."""
    return -(-steps // interval) if interval > 0 else 1


def scaled(measured: Sequence[Measurement], plan: RunPlan) -> Costs:
    """The costs of a plan: the last ones measured at its depth and batch or nearest, in proportion to the FLOPs."""

    def distance(each: Measurement) -> tuple[int, int]:
        return abs(each.plan.depth - plan.depth), abs(each.plan.batch_tokens - plan.batch_tokens)

    nearest = min(reversed(measured), key=distance)
    costs, like = nearest.costs, nearest.plan
    flops = plan.flops_per_token / like.flops_per_token
    step = flops * plan.batch_tokens / like.batch_tokens
    return Costs(
        first_step_s=costs.first_step_s * step,
        step_s=costs.step_s * step,
        evaluation_s=costs.evaluation_s * flops,
        save_s=costs.save_s * sum(plan.parameters.values()) / sum(like.parameters.values()),
        samples_s=costs.samples_s * flops,
    )


def choose(
    dial: Dial, plan_of: Planner, measured: Sequence[Measurement], options: PretrainOptions, start_s: float
) -> MinutesChoice:
    """The deepest model that gets enough tokens per parameter in the minutes, trained for as many steps as fit.

    Enough: what the dial says, or else the regime. If not even the smallest model gets as many, it is that one, with at
    least one step; likewise a depth that was asked for. The batch is that of the tokens that fit.
    """
    assert dial.minutes is not None
    seconds, free = 60 * dial.minutes * (1 - RESERVE), replace(dial, minutes=None)

    def time_of(plan: RunPlan, steps: int) -> Estimate:
        return estimate(scaled(measured, plan), steps, options, start_s)

    def steps_within(plan: RunPlan) -> int:
        most = range(1, 1 + int(seconds / scaled(measured, plan).step_s))
        return max(1, bisect_right(most, seconds, key=lambda count: time_of(plan, count).total_s))

    plan = plan_of(replace(free, depth=_first_depth(dial)))
    enough = dial.target_param_data_ratio or REGIMES[plan.regime].least_param_data_ratio
    while dial.depth is None:
        try:
            deeper = plan_of(replace(free, depth=plan.depth + 1, target_param_data_ratio=enough))
        except ValueError:  # it does not fit into memory
            break
        if time_of(deeper, deeper.total_steps).total_s > seconds:
            break
        plan = deeper
    ratio = steps_within(plan) * plan.batch_tokens / horizon_parameters(plan.model)
    fitting = plan_of(replace(free, depth=plan.depth, target_param_data_ratio=ratio))
    steps, batch = steps_within(fitting), fitting.batch_tokens
    chosen = plan_of(replace(free, depth=plan.depth, num_iterations=steps, total_batch_size=batch))
    return MinutesChoice(chosen, scaled(measured, chosen), time_of(chosen, steps))


def _first_depth(dial: Dial) -> int:
    return SMALLEST_DEPTH if dial.depth is None else dial.depth


def settle(
    dial: Dial,
    plan_of: Planner,
    measure: Callable[[RunPlan], Costs],
    options: PretrainOptions,
    *,
    assumed_flops: float,
    age_s: Callable[[], float],
) -> MinutesChoice:
    """Measure candidates, starting with the choice at `assumed_flops` FLOP/s, until the choice is a measured one.

    age_s: seconds since the process started. Raises ValueError for minutes in which there is no time to train.
    """
    check_minutes(dial)
    assert dial.minutes is not None
    smallest = plan_of(replace(dial, minutes=None, depth=_first_depth(dial)))
    step_s = smallest.flops_per_token * smallest.batch_tokens / assumed_flops
    assumed = Measurement(smallest, Costs(0, step_s, 0, 0, 0))
    measured: list[Measurement] = []
    while True:
        choice = choose(dial, plan_of, measured or [assumed], options, age_s())
        if any(_alike(each.plan, choice.plan) for each in measured):
            break
        measured.append(Measurement(choice.plan, measure(choice.plan)))
    if choice.estimate.total_s > 60 * dial.minutes:
        raise ValueError(
            f"--minutes {dial.minutes:g} leaves no time to train a model of depth {choice.plan.depth}: "
            f"with start, evaluation and saving, one step takes about {choice.estimate.total_s / 60:.2g} minutes here"
        )
    return choice


def _alike(one: RunPlan, other: RunPlan) -> bool:
    """Whether the steps of two plans take the same time."""
    alike = one.depth == other.depth and one.batch_tokens == other.batch_tokens
    return alike and run_size(one.total_flops) == run_size(other.total_flops)


def resumed(dial: Dial, saved: CheckpointMeta) -> Dial:
    """The dial of a saved run with what its minutes chose then; nothing is measured again.

    Raises ValueError if the minutes asked for are not the saved run's.
    """
    require_same_flags(saved, dial, "minutes")
    if dial.minutes is None:
        return dial
    check_minutes(dial)
    depth = saved.model.n_layer if dial.depth is None else dial.depth
    steps, batch = saved.plan.total_steps, saved.plan.batch_tokens
    return replace(dial, minutes=None, depth=depth, num_iterations=steps, total_batch_size=batch)
