"""The machine of a run: its devices, what they compute and what they hold."""

import re
from dataclasses import dataclass

import torch

from nanochat import hardware
from nanochat.runtime import Runtime

# Share of the peak FLOP/s (by the vendor, in bf16) that training reaches on a GPU.
_GPU_UTILISATION = 0.5

# On a CPU the products' speed is measured. The rest of a step, bound by memory and vectors, takes about as long as
# products would at this rate per thread: most of the step where matrix units (AMX) multiply (docs/log.md).
_CPU_REST_FLOPS = 3e11


@dataclass(frozen=True)
class Machine:
    """Devices of one kind; FLOP/s and bytes of memory are per device, `utilisation` is the share of the FLOP/s that
    training reaches."""

    name: str
    device: str
    count: int
    flops: float | None
    memory: int
    utilisation: float = _GPU_UTILISATION


_GPU_MEMORY = {
    "H100": 80e9,
    "H200": 141e9,
    "B200": 192e9,
    "A100": 80e9,
    "L40S": 48e9,
    "L40": 48e9,
    "L4": 24e9,
    "A10G": 24e9,
    "RTX 5090": 32e9,
    "RTX 4090": 24e9,
    "RTX 4080": 16e9,
    "RTX 3090": 24e9,
}


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
    cpu, device = hardware.cpu(), runtime.device.type
    name, count = f"{cpu.model}, {cpu.usable:g} cores", runtime.processes.world_size
    if device != "cpu":
        return Machine(name, device, count, None, device_memory(runtime))
    flops = hardware.measure_gemm_flops(runtime.compute_dtype)
    rest = _CPU_REST_FLOPS * torch.get_num_threads()
    return Machine(name, device, count, flops, device_memory(runtime), utilisation=rest / (rest + flops))


def parse_machine(text: str) -> Machine:
    """Parse a description such as "8xH100" or "rtx4090". Raises ValueError for an unknown machine."""
    match = re.fullmatch(r"(?:([1-9]\d*)\s*[x×]\s*)?(.+)", text.strip())
    known = {_plain(name): name for name in _GPU_MEMORY}
    name = known.get(_plain(match[2])) if match else None
    if match is None or name is None:
        raise ValueError(
            f"unknown machine {text!r}: write it as 8xH100, with one of {', '.join(_GPU_MEMORY)}"
        )
    flops = hardware.peak_flops(name, "bf16")
    return Machine(name, "cuda", int(match[1] or 1), flops, int(_GPU_MEMORY[name]))


def _plain(name: str) -> str:
    return name.replace(" ", "").lower()
