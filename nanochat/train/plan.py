"""`nanochat plan`: show what a depth decides, before training."""

import re
from dataclasses import dataclass, replace

import torch

from nanochat import hardware
from nanochat.console import amount, say, table
from nanochat.runtime import Runtime
from nanochat.scaling import Dial, RunPlan, make_plan

# Share of the peak FLOP/s that training reaches. For GPUs the peak is the vendor's (bf16), for CPUs it is measured.
_UTILISATION = {"cuda": 0.5, "mps": 0.5, "cpu": 0.75}

_LONG_RUN_FLOPS = 1e13  # about a minute on a laptop


@dataclass(frozen=True)
class Machine:
    """Devices of one kind; FLOP/s and bytes of memory are per device."""

    name: str
    device: str
    count: int
    flops: float | None
    memory: int


_GPU_MEMORY = {
    "H100": 80e9,
    "H200": 141e9,
    "B200": 192e9,
    "A100": 80e9,
    "L40S": 48e9,
    "RTX 4090": 24e9,
    "RTX 3090": 24e9,
}


@dataclass(frozen=True)
class PlanConfig(Dial):
    """Show everything that --depth and the overrides decide."""

    vocab_size: int = 32_768
    machine: str | None = None
    """For instance 8xH100; default: this machine."""
    dollars_per_hour: float | None = None
    """Price of the whole machine, to estimate the cost."""
    device: str = "auto"
    dtype: str = "auto"


@dataclass(frozen=True)
class PlanResult:
    """A plan and its cost on a machine; hours and dollars are None if a rate or price is unknown."""

    plan: RunPlan
    machine: Machine
    total_flops: float
    hours: float | None
    dollars: float | None


def run(config: PlanConfig, runtime: Runtime) -> PlanResult:
    """Make and print the plan. Raises ValueError if sizes do not divide evenly or do not fit the machine's memory."""
    machine = parse_machine(config.machine) if config.machine else this_machine(runtime)
    plan = make_plan(
        config,
        config.vocab_size,
        machine.device,
        machine.count,
        machine.memory,
        None if config.machine else runtime.compute_dtype,
    )
    hours, dollars = _hours(plan, machine), None
    if hours is not None and config.dollars_per_hour is not None:
        dollars = hours * config.dollars_per_hour
    describe_plan(plan)
    _describe_effort(plan, machine, hours, dollars)
    return PlanResult(plan, machine, plan.total_flops, hours, dollars)


def device_memory(runtime: Runtime) -> int:
    """Bytes that one process may use: the minimum over all processes, so that they make the same plan."""
    if runtime.device.type == "cuda":
        mine = torch.cuda.get_device_properties(runtime.device).total_memory
    else:
        mine = hardware.memory().available // runtime.processes.world_size
    return min(runtime.processes.gather(mine))


def this_machine(runtime: Runtime) -> Machine:
    """The devices of this run (for one process, all GPUs here); a CPU's rate is measured in a fraction of a second."""
    if runtime.device.type == "cuda":
        name = torch.cuda.get_device_name(runtime.device)
        count = (
            runtime.processes.world_size if runtime.processes.world_size > 1 else torch.cuda.device_count()
        )
        return Machine(name, "cuda", count, hardware.peak_flops(name, "bf16"), device_memory(runtime))
    cpu = hardware.cpu()
    flops = hardware.measure_gemm_flops() if runtime.device.type == "cpu" else None
    return Machine(
        f"{cpu.model}, {cpu.usable:g} cores",
        runtime.device.type,
        runtime.processes.world_size,
        flops,
        device_memory(runtime),
    )


def parse_machine(text: str) -> Machine:
    """Parse a description such as "8xH100". Raises ValueError for an unknown machine."""
    match = re.fullmatch(r"(?:(\d+)\s*[x×]\s*)?(.+)", text.strip())
    name = match[2] if match else text
    flops = hardware.peak_flops(name, "bf16")
    if match is None or flops is None or name not in _GPU_MEMORY:
        raise ValueError(
            f"unknown machine {text!r}: write it as 8xH100, with one of {', '.join(_GPU_MEMORY)}"
        )
    return Machine(name, "cuda", int(match[1] or 1), flops, int(_GPU_MEMORY[name]))


def describe_plan(plan: RunPlan) -> None:
    """Print the plan as a table on stderr."""
    model, rates, schedule = plan.model, plan.rates, plan.schedule
    total = sum(plan.parameters.values())
    groups = ", ".join(
        f"{name} {amount(count)}" for name, count in plan.parameters.items() if count > total / 1000
    )
    split = (
        f"{plan.batch_tokens // model.max_seq_len} rows on {plan.world_size} devices, "
        f"micro-batches of {plan.device_batch_size}"
    )
    table(
        f"plan for depth {plan.depth} ({plan.regime} regime)",
        ("what", "value"),
        (
            (
                "model",
                f"{model.n_layer} layers, width {model.n_embd}, {model.n_head} heads of {model.head_dim}",
            ),
            ("context", f"{model.max_seq_len} tokens, windows {model.window_pattern}"),
            ("vocabulary", f"{model.vocab_size:,} tokens"),
            ("parameters", f"{amount(total)}: {groups}"),
            ("horizon", f"{amount(plan.tokens)} tokens in {plan.total_steps:,} steps"),
            ("batch", f"{plan.batch_tokens:,} tokens = {split}"),
            ("matrix rate (Muon)", f"{rates.matrix:.4g}, decay {rates.weight_decay:.4g}"),
            (
                "other rates (AdamW)",
                f"embedding {rates.embedding:.4g}, head {rates.head:.4g}, scalars {rates.scalar:.4g}",
            ),
            (
                "schedule",
                f"{schedule.warmup_steps} steps of warmup, the last {schedule.warmdown_fraction:.0%} down "
                f"to {schedule.final_lr:.0%}",
            ),
            ("FLOPs", f"{amount(plan.flops_per_token)} per token, {plan.total_flops:.3g} in total"),
            ("memory", f"about {plan.memory_bytes / 1e9:.2f} GB per device"),
        ),
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
    return plan.hours(machine.flops * machine.count * _UTILISATION[machine.device])


def _describe_effort(plan: RunPlan, machine: Machine, hours: float | None, dollars: float | None) -> None:
    where = f"{machine.count} × {machine.name}"
    if hours is None:
        say(f"on {where}: speed unknown")
        return
    time = f"{hours:.2f} hours" if hours >= 1 else f"{hours * 60:.1f} minutes"
    cost = f", about ${dollars:.2f}" if dollars is not None else ""
    rate = f"{_UTILISATION[machine.device]:.0%} of {amount(machine.flops or 0)}FLOP/s"
    say(f"on {where}: about {time} of training{cost} (at {rate})")
