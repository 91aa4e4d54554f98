"""What a process runs on, decided once and passed on: the other processes, device, compute dtype, paths."""

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from nanochat import hardware
from nanochat.paths import Paths, default_paths
from nanochat.processes import Processes, open_processes

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_DEVICES: dict[str, Callable[[], bool]] = {
    "cuda": torch.cuda.is_available,
    "mps": lambda: torch.backends.mps.is_available(),
    "cpu": lambda: True,
}


@dataclass(frozen=True)
class Runtime:
    """One process's environment. Matmuls run in `compute_dtype`; weights stay fp32."""

    processes: Processes
    device: torch.device
    compute_dtype: torch.dtype
    paths: Paths
    device_reason: str = "requested"
    dtype_reason: str = "requested"

    @property
    def dtype(self) -> str:
        """The compute dtype's name, as in DTYPES."""
        return next(name for name, dtype in DTYPES.items() if dtype == self.compute_dtype)

    def with_dtype(self, name: str, reason: str) -> "Runtime":
        """The same, computing in another dtype."""
        return replace(self, compute_dtype=DTYPES[name], dtype_reason=reason)

    @property
    def is_main(self) -> bool:
        """Whether this is process 0, which saves, logs and prints."""
        return self.processes.is_main

    def synchronize(self) -> None:
        """Wait for the device, so that timings taken afterwards are valid."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()


def choose_device(request: str = "auto") -> tuple[str, str]:
    """(device type, reason). Raises ValueError for an unknown or unavailable device."""
    if request == "auto":
        kind = next(name for name, available in _DEVICES.items() if available())
        return kind, f"the first available of {', '.join(_DEVICES)}"
    if request not in _DEVICES:
        raise ValueError(f"unknown device {request!r}: choose auto, {', '.join(_DEVICES)}")
    if not _DEVICES[request]():
        raise ValueError(
            f"device {request!r} is not available here: use --device auto (see `nanochat doctor`)"
        )
    return request, "requested"


def choose_dtype(device: str, request: str = "auto") -> tuple[torch.dtype, str]:
    """(compute dtype, reason). bf16 where the device is fast at it, else fp32."""
    if request != "auto":
        if request not in DTYPES:
            raise ValueError(f"unknown dtype {request!r}: choose auto, {', '.join(DTYPES)}")
        return DTYPES[request], "requested"
    if device == "cuda":
        major, _ = torch.cuda.get_device_capability()
        if major >= 8:
            return torch.bfloat16, f"tensor cores of compute capability {major}.x multiply bf16"
        return torch.float32, f"compute capability {major}.x has no bf16 tensor cores"
    if device == "mps":
        return torch.bfloat16, "Apple GPUs multiply bf16"
    cpu = hardware.cpu()
    units = [unit for unit in hardware.BF16_UNITS if unit in cpu.vector_units]
    if cpu.vendor == "GenuineIntel" and units == [
        "avx512_bf16"
    ]:  # as where a virtual machine hides AMX (docs/log.md)
        return torch.float32, "Intel's avx512_bf16 multiplies more slowly than fp32 does, and there is no AMX"
    if not units:
        return torch.float32, "this processor has no bf16 units, without which bf16 is slower than fp32"
    if not _multiplies_bf16():
        return torch.float32, f"{units[0]} is there, but PyTorch's bf16 products failed a trial"
    return torch.bfloat16, f"the processor's {units[0]} units multiply bf16"


def _multiplies_bf16() -> bool:
    """Whether this PyTorch multiplies bf16 on the CPU: a product of integers that bf16 holds exactly."""
    a, b = (torch.arange(32.0 * 32).view(32, 32) % prime - prime // 2 for prime in (3, 5))
    try:
        return torch.equal((a.bfloat16() @ b.bfloat16()).float(), a @ b)
    except RuntimeError:  # a build without these products
        return False


@contextmanager
def open_runtime(device: str = "auto", dtype: str = "auto", paths: Paths | None = None) -> Iterator[Runtime]:
    """Set up this process, join the others that torchrun started, and leave them at the end."""
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    kind, device_reason = choose_device(device)
    if kind == "cuda" and local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"process {local_rank} has no GPU: start at most {torch.cuda.device_count()} processes"
        )
    target = torch.device(kind, local_rank) if kind == "cuda" else torch.device(kind)
    compute_dtype, dtype_reason = choose_dtype(kind, dtype)
    if kind == "cuda":
        torch.cuda.set_device(target)
        torch.set_float32_matmul_precision("high")
    else:
        _keep_freed_memory()
    with open_processes("nccl" if kind == "cuda" else "gloo") as processes:
        yield Runtime(processes, target, compute_dtype, paths or default_paths(), device_reason, dtype_reason)


def _keep_freed_memory() -> None:
    """Tell glibc to reuse freed blocks instead of returning them to the kernel.

    Every training step frees and allocates the same large buffers; by default each is a new mmap, and each of its
    pages faults. Measured in docs/log.md.
    """
    if not sys.platform.startswith("linux"):
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX of <malloc.h>
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # a libc without mallopt (musl)
        return
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, -1)
    mallopt(top_pad, 64 * 1024 * 1024)
