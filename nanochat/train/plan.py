"""`nanochat plan`: show what a depth decides, before training."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from nanochat import hardware
from nanochat.bounds import require_not_negative
from nanochat.console import amount, counted, duration, say, table
from nanochat.runtime import Runtime
from nanochat.scaling import Dial, RunPlan, make_plan
from nanochat.train.machine import Machine, parse_machine, this_machine
from nanochat.train.minutes import MinutesChoice, Planner, check_minutes, settle
from nanochat.train.options import PretrainOptions
from nanochat.train.timing import measure_costs

_LONG_RUN_FLOPS = 1e13  # about a minute on a laptop

# Where measuring for --minutes begins: at what even a small model reaches, so that the first candidate is not too deep.
_LEAST_UTILISATION = 0.2
_LEAST_FLOPS = 1e11  # of a device whose peak is unknown

# A process older than this when it plans did other things before the run, for instance in a notebook.
_LONGEST_START_S = 60.0

_BYTES_PER_TOKEN = 4  # of English text, where `nanochat plan` knows no dataset

# From which models of minutes on a CPU learn most: half and twice as many tokens cost 1 and 3 % (docs/log.md).
_VOCABULARY_OF_MINUTES = 8192
_MOST_MINUTES = 60


@dataclass(frozen=True)
class PlanConfig(Dial):
    """Show everything that --depth and the overrides decide."""

    vocab_size: int = 32_768
    """Tokens of the vocabulary."""
    machine: str | None = None
    """For instance 8xH100; default: this machine."""
    dollars_per_hour: float | None = None
    """Price of the whole machine, to estimate the cost."""
    device: str = "auto"
    """Plan for this device: cuda, mps or cpu; auto: the fastest here."""
    dtype: str = "auto"
    """Dtype of the products: bf16 or fp32; auto: bf16 where this device multiplies it fast."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_not_negative(self, "dollars_per_hour")


@dataclass(frozen=True)
class PlanResult:
    """A plan and its cost on a machine; hours and dollars are None if a rate or price is unknown."""

    plan: RunPlan
    machine: Machine
    total_flops: float
    hours: float | None
    dollars: float | None
    minutes: MinutesChoice | None = None
    """What --minutes chose: the costs that were measured and the estimate by part."""


def run(config: PlanConfig, runtime: Runtime) -> PlanResult:
    """Make and print the plan. Raises ValueError if sizes do not divide evenly or do not fit the machine's memory."""
    check_minutes(config)
    if config.minutes is not None and config.machine:
        raise ValueError("--minutes measures this machine: leave out --machine")
    machine = parse_machine(config.machine) if config.machine else this_machine(runtime)
    plan_of = partial(
        make_plan,
        vocab_size=config.vocab_size,
        device=machine.device,
        world_size=machine.count,
        memory_limit=machine.memory,
        compute_dtype=None if config.machine else runtime.compute_dtype,
    )
    if config.minutes is None:
        choice, plan = None, plan_of(config)
        hours = _hours(plan, machine)
    else:
        options = PretrainOptions()
        choice = choose_for_minutes(
            config, plan_of, runtime, options, options.eval_bytes / _BYTES_PER_TOKEN, machine
        )
        plan, hours = choice.plan, choice.estimate.total_s / 3600
    dollars = None
    if hours is not None and config.dollars_per_hour is not None:
        dollars = hours * config.dollars_per_hour
    describe_plan(plan, choice)
    _describe_effort(plan, machine, hours, dollars, measured=choice is not None)
    return PlanResult(plan, machine, plan.total_flops, hours, dollars, choice)


def choose_for_minutes(
    dial: Dial,
    plan_of: Planner,
    runtime: Runtime,
    options: PretrainOptions,
    eval_tokens: float,
    machine: Machine,
) -> MinutesChoice:
    """Depth and steps for --minutes, after measuring this machine; the same on every process.

    eval_tokens: tokens of one evaluation. Raises ValueError for minutes too short.
    """
    assert dial.minutes is not None
    say(f"measuring this machine for --minutes {dial.minutes:g}")
    flops = None if machine.flops is None else machine.flops * machine.count * _LEAST_UTILISATION
    age_s = _process_clock()
    return settle(
        dial,
        plan_of,
        partial(
            measure_costs, runtime=runtime, options=options, minutes=dial.minutes, eval_tokens=eval_tokens
        ),
        options,
        assumed_flops=runtime.processes.decide(lambda: flops or _LEAST_FLOPS),
        age_s=lambda: runtime.processes.decide(age_s),
    )


def _process_clock() -> Callable[[], float]:
    """Seconds since the process started or, if it did other things before, since now."""
    age, now = hardware.process_age_s(), time.monotonic()
    began = now - age if age < _LONGEST_START_S else now
    return lambda: time.monotonic() - began


def describe_plan(plan: RunPlan, choice: MinutesChoice | None = None) -> None:
    """Print the plan as a table on stderr, with the estimate of `choice` where --minutes made it."""
    model, rates, schedule = plan.model, plan.rates, plan.schedule
    total = sum(plan.parameters.values())
    groups = ", ".join(
        f"{name} {amount(count)}" for name, count in plan.parameters.items() if count > total / 1000
    )
    rows = counted(plan.batch_tokens // model.max_seq_len, "row")
    split = f"{rows} on {counted(plan.world_size, 'device')}, micro-batches of {plan.device_batch_size}"
    table(
        f"plan for depth {plan.depth} ({plan.regime} regime)",
        ("what", "value"),
        (
            (
                "model",
                f"{model.n_layer} layers, width {model.n_embd}, {model.n_head} heads of {model.head_dim}",
            ),
            ("context", f"{model.max_seq_len} tokens, windows {model.window_pattern} (L: whole, S: short)"),
            ("vocabulary", f"{model.vocab_size:,} tokens"),
            ("parameters", f"{amount(total)}: {groups}"),
            ("training", f"{amount(plan.tokens)} tokens in {counted(plan.total_steps, 'step')}"),
            ("batch", f"{plan.batch_tokens:,} tokens = {split}"),
            ("matrix rate (Muon)", f"{rates.matrix:.4g}, decay {rates.weight_decay:.4g}"),
            (
                "other rates (AdamW)",
                f"embedding {rates.embedding:.4g}, head {rates.head:.4g}, scalars {rates.scalar:.4g}",
            ),
            (
                "schedule",
                f"{counted(schedule.warmup_steps, 'step')} of warmup, then constant, then falling over the last "
                f"{schedule.warmdown_fraction:.0%} of the steps to {schedule.final_lr:.0%} of the peak",
            ),
            ("FLOPs", f"{amount(plan.flops_per_token)} per token, {plan.total_flops:.3g} in total"),
            ("memory", f"about {plan.memory_bytes / 1e9:.2f} GB per device"),
            *_estimate_rows(choice),
        ),
    )
    if choice is not None:
        _advise_on_vocabulary(plan, choice)


def _advise_on_vocabulary(plan: RunPlan, choice: MinutesChoice) -> None:
    short = plan.regime == "cpu" and choice.estimate.total_s < 60 * _MOST_MINUTES
    if short and plan.model.vocab_size > _VOCABULARY_OF_MINUTES:
        say(
            f"in so short a time a vocabulary of {_VOCABULARY_OF_MINUTES:,} tokens learns more than one of "
            f"{plan.model.vocab_size:,}: `nanochat tokenizer train --vocab-size {_VOCABULARY_OF_MINUTES}`"
        )


def _estimate_rows(choice: MinutesChoice | None) -> tuple[tuple[str, str], ...]:
    if choice is None:
        return ()
    parts = choice.estimate
    named = {
        "start": parts.start_s,
        "training": parts.training_s,
        "evaluation": parts.evaluation_s,
        "saving": parts.saving_s,
        "samples": parts.samples_s,
    }
    listed = ", ".join(f"{name} {duration(seconds)}" for name, seconds in named.items())
    return (
        ("speed, measured", f"{choice.tokens_per_s:,.0f} tok/s in training"),
        ("time, estimated", f"{duration(parts.total_s)}: {listed}"),
    )


def describe_duration(plan: RunPlan, runtime: Runtime) -> None:
    """Print how long the run takes on the processes of `runtime`; nothing for a short one."""
    if plan.total_flops < _LONG_RUN_FLOPS:
        return
    machine = replace(this_machine(runtime), count=runtime.processes.world_size)
    _describe_effort(plan, machine, _hours(plan, machine), None)


def _hours(plan: RunPlan, machine: Machine) -> float | None:
    if machine.flops is None:
        return None
    return plan.hours(machine.flops * machine.count * machine.utilisation)


def _describe_effort(
    plan: RunPlan, machine: Machine, hours: float | None, dollars: float | None, *, measured: bool = False
) -> None:
    where = f"{machine.count} × {machine.name}"
    if hours is None:
        say(f"on {where}: speed unknown")
        return
    time = f"{hours:.2f} hours" if hours >= 1 else f"{hours * 60:.1f} minutes"
    cost = f", about ${dollars:.2f}" if dollars is not None else ""
    if measured:
        say(f"on {where}: about {time} from start to end{cost}, as measured")
        return
    rate = f"{machine.utilisation:.0%} of {amount(machine.flops or 0)} FLOP/s"
    say(f"on {where}: about {time} of training{cost} (at {rate})")
