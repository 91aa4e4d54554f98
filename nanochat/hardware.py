"""The machine and its software: peak rates of known accelerators, cores, memory, versions.

Importing this module queries nothing; torch is imported by the functions that need it.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "bf16", "fp8"]

BF16_UNITS = ("amx_bf16", "avx512_bf16", "svebf16", "bf16")
"""Linux's names of the units of a CPU that multiply bf16, the faster ones first; the last two are Arm's."""


@dataclass(frozen=True)
class Peak:
    """Dense peak rates of an accelerator in TFLOP/s (no sparsity); None if it lacks such units."""

    bf16: float
    fp8: float | None
    fp32: float


# Key: words that torch's device name must contain. The first match wins, so variants precede their family.
# Sources: NVIDIA's data sheet of each product (sparse rates halved) and AMD's for the MI series; bf16 and fp8 on
# matrix units with fp32 accumulation, fp32 on vector units.
_PEAKS: dict[tuple[str, ...], Peak] = {
    ("GB300",): Peak(2500, 5000, 80),
    ("GB200",): Peak(2500, 5000, 80),
    ("B300",): Peak(2250, 4500, 75),
    ("B200",): Peak(2250, 4500, 75),
    ("GH200",): Peak(989.4, 1978.9, 67),
    ("H200", "NVL"): Peak(835.5, 1670.5, 60),
    ("H200",): Peak(989.4, 1978.9, 67),
    ("H100", "NVL"): Peak(835.5, 1670.5, 60),
    ("H100", "PCIe"): Peak(756, 1513, 51),
    ("H100",): Peak(989.4, 1978.9, 67),
    ("H800", "PCIe"): Peak(756, 1513, 51),
    ("H800",): Peak(989.4, 1978.9, 67),
    ("H20",): Peak(148, 296, 44),
    ("A100",): Peak(312, None, 19.5),
    ("A800",): Peak(312, None, 19.5),
    ("A40",): Peak(149.7, None, 37.4),
    ("A30",): Peak(165, None, 10.3),
    ("A10G",): Peak(70, None, 31.5),
    ("A10",): Peak(125, None, 31.2),
    ("RTX A6000",): Peak(154.8, None, 38.7),
    ("L40S",): Peak(362, 733, 91.6),
    ("L40",): Peak(181, 362, 90.5),
    ("L4",): Peak(121, 242.5, 30.3),
    ("RTX 5090",): Peak(209.5, 419, 104.8),
    ("RTX 4090",): Peak(165.2, 330.3, 82.6),
    ("RTX 4080",): Peak(97.5, 194.9, 48.7),
    ("RTX 3090", "Ti"): Peak(80, None, 40),
    ("RTX 3090",): Peak(71, None, 35.6),
    ("MI355X",): Peak(2516.6, 5033.2, 157.3),
    ("MI350X",): Peak(2306.9, 4613.7, 144.2),
    ("MI325X",): Peak(1307.4, 2614.9, 163.4),
    ("MI300X",): Peak(1307.4, 2614.9, 163.4),
    ("MI300A",): Peak(980.6, 1961.2, 122.6),
    ("MI250X",): Peak(383, None, 47.9),
    ("MI250",): Peak(362.1, None, 45.3),
}


def peak_flops(device_name: str, precision: Precision) -> float | None:
    """Dense peak FLOP/s of a device, by the name that torch gives it; None if unknown (no MFU is shown then)."""
    words = device_name.replace("-", " ").split()
    for needed, peak in _PEAKS.items():
        if all(word in words for word in " ".join(needed).split()):
            rate = getattr(peak, precision)
            return None if rate is None else rate * 1e12
    return None


@dataclass(frozen=True)
class Cpu:
    """The processor. `usable`: cores that this process may use, by its affinity and the container's quota."""

    model: str
    vendor: str | None
    cores: int
    threads: int
    usable: float
    vector_units: tuple[str, ...]


@dataclass(frozen=True)
class Memory:
    """Main memory in bytes, within the container's limit."""

    total: int
    available: int


@dataclass(frozen=True)
class Accelerator:
    """A GPU as torch sees it: memory in bytes; `capability` of CUDA, for instance "9.0"."""

    name: str
    memory: int
    capability: str | None


@dataclass(frozen=True)
class Hardware:
    """What a process may use of this machine."""

    cpu: Cpu
    memory: Memory
    accelerators: tuple[Accelerator, ...]


def cpu() -> Cpu:
    """The processor."""
    import psutil

    threads = os.cpu_count() or 1
    return Cpu(
        model=_cpu_field("model name") or _macos_cpu() or platform.processor() or platform.machine(),
        vendor=_cpu_field("vendor_id"),
        cores=psutil.cpu_count(logical=False) or threads,
        threads=threads,
        usable=_usable(),
        vector_units=_vector_units((_cpu_field("flags") or _cpu_field("Features") or "").split()),
    )


def usable_cores() -> int:
    """Number of whole cores that this process may use, at least one."""
    return max(int(_usable()), 1)


def _usable() -> float:
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    quota = cpu_quota()
    return allowed if quota is None else min(allowed, quota)


def memory() -> Memory:
    """Main memory that this process may use."""
    import psutil

    machine = psutil.virtual_memory()
    limit, used = memory_limit()
    if limit is None or limit >= machine.total:
        return Memory(machine.total, machine.available)
    return Memory(limit, min(machine.available, max(limit - used, 0)))


def peak_rss_bytes() -> int:
    """Peak resident memory of this process."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def process_age_s() -> float:
    """Seconds since this process started."""
    import psutil

    return time.time() - psutil.Process().create_time()


def accelerators() -> list[Accelerator]:
    """The GPUs that torch can use; empty on a CPU machine."""
    import torch

    if torch.cuda.is_available():
        devices = (torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count()))
        return [Accelerator(gpu.name, gpu.total_memory, f"{gpu.major}.{gpu.minor}") for gpu in devices]
    if torch.backends.mps.is_available():
        return [Accelerator("Apple GPU", torch.mps.recommended_max_memory(), None)]
    return []


def describe() -> Hardware:
    """All of the above, for metrics and reports."""
    return Hardware(cpu(), memory(), tuple(accelerators()))


def software() -> dict[str, str | None]:
    """Versions of everything a result depends on. `revision`: the checkout's commit, with "+" if it is modified."""
    packages = ("nanochat", "torch", "numpy", "pyarrow", "tiktoken", "huggingface-hub")
    versions = {name: _version(name) for name in packages}
    import torch

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        **versions,
        "cuda": torch.version.cuda,
        "revision": git_revision(Path(__file__).parent),
    }


def git_revision(directory: Path) -> str | None:
    """The commit of the repository that tracks `directory`, with "+" if it is modified; None outside a repository."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(directory), *arguments], capture_output=True, text=True, timeout=10
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if not git("ls-files", "."):  # an installed copy may be inside a repository that does not track it
        return None
    commit = git("rev-parse", "--short=12", "HEAD")
    return commit and commit + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")


def measure_gemm_flops(dtype: torch.dtype, seconds: float = 0.2, size: int = 1024) -> float:
    """Measured matmul FLOP/s of this CPU in a dtype with torch's current threads: the best product within `seconds`."""
    import torch

    a, b = torch.randn(2, size, size, generator=torch.Generator().manual_seed(0)).to(dtype)
    out = torch.mm(a, b)
    best = float("inf")
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        torch.mm(a, b, out=out)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """The container's CPU quota in cores (cgroup v2), or None."""
    quotas = [(_read(folder / "cpu.max") or "max 1").split() for folder in _cgroups(root)]
    return min((int(quota) / int(period) for quota, period in quotas if quota != "max"), default=None)


def memory_limit(root: Path = Path("/sys/fs/cgroup")) -> tuple[int | None, int]:
    """(limit, used) bytes of the container's memory (cgroup v2); (None, 0) without a limit."""
    limits = [
        (int(limit), int(_read(folder / "memory.current") or 0))
        for folder in _cgroups(root)
        if (limit := _read(folder / "memory.max") or "max") != "max"
    ]
    return min(limits, default=(None, 0), key=lambda limit: limit[0] - limit[1])


def _cgroups(root: Path) -> list[Path]:
    """This process's cgroup v2 folders, innermost first."""
    entries = (_read(Path("/proc/self/cgroup")) or "").splitlines()
    own = next((entry.removeprefix("0::").strip("/") for entry in entries if entry.startswith("0::")), "")
    folder = root / own
    return [folder, *[parent for parent in folder.parents if parent.is_relative_to(root)]]


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _cpu_field(name: str) -> str | None:
    """The first value of a field of Linux's /proc/cpuinfo."""
    for line in (_read(Path("/proc/cpuinfo")) or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def _macos_cpu() -> str | None:
    if sys.platform != "darwin":
        return None
    command = ["sysctl", "-n", "machdep.cpu.brand_string"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None


def _vector_units(flags: list[str]) -> tuple[str, ...]:
    wanted = ("avx2", "avx512f", "avx512_fp16", "asimd", "sve", *BF16_UNITS)
    return tuple(flag for flag in wanted if flag in flags)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
