"""`nanochat doctor`: what this machine has, what nanochat will use and why, and what is missing."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import sysconfig
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from nanochat import hardware
from nanochat.console import say, table
from nanochat.errors import EnvironmentFault
from nanochat.hub.listing import endpoint, is_offline
from nanochat.infer.native_library import SOURCE as DECODER_SOURCE
from nanochat.model.attention import probe_kernels
from nanochat.model.backend import NATIVE_SOURCES, choose_backend
from nanochat.model.compilation import probe_compile
from nanochat.native.library import OPENMP, USUAL_COMPILER, compiler, failure, library_path
from nanochat.paths import Paths
from nanochat.processes import Processes
from nanochat.runtime import Runtime, choose_device, choose_dtype
from nanochat.sandbox.python import isolation_here

_LOW_DISK_BYTES = 3e9  # more than the quickstart's data, checkpoints and report take
_HUB_TIMEOUT_S = 10
_BY_RUN = ("training steps", "training operators")
"""Choices that depend on the run's length; of what they need, `_compilation` tells."""
_OPTIONAL = {
    "wandb": "--track wandb: metrics to Weights & Biases too (uv pip install -e '.[wandb]')",
    "trackio": "--track trackio: metrics to trackio too (uv pip install -e '.[trackio]')",
    "tensorboard": "--track tensorboard: metrics to TensorBoard too (uv pip install -e '.[tensorboard]')",
    "transformers": "nanochat export hf (uv pip install -e '.[export]')",
    "safetensors": "nanochat import of folders of transformers (uv pip install -e '.[export]')",
}


@dataclass(frozen=True)
class DoctorConfig:
    """Check this machine: hardware, backend, compiler, disk, hub, sandbox and packages."""

    device: str = "auto"
    """check as if running on this device (cuda, mps, cpu)"""
    dtype: str = "auto"
    """check with this compute dtype (bf16, fp32)"""
    probe_compile: bool = False
    """compile a small function to see whether torch.compile works (takes up to a minute)"""
    probe_hub: bool = False
    """check that the hub answers"""


@dataclass(frozen=True)
class Finding:
    """One line of the report; `ok` is false if something is missing or broken."""

    topic: str
    found: str
    why: str
    ok: bool = True


@dataclass(frozen=True)
class DoctorResult:
    """All findings, in the order of the report."""

    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class _Visit:
    config: DoctorConfig
    runtime: Runtime


def run(config: DoctorConfig, paths: Paths) -> DoctorResult:
    """Check and print a table, changing nothing. Raises ValueError for an unknown device or dtype."""
    kind, device_reason = choose_device(config.device)
    dtype, dtype_reason = choose_dtype(kind, config.dtype)
    runtime = Runtime(Processes(), torch.device(kind), dtype, paths, device_reason, dtype_reason)
    visit = _Visit(config, runtime)
    findings = tuple(finding for look in _LOOKS for finding in look(visit))
    rows = [(f.topic, f.found if f.ok else f"! {f.found}", f.why) for f in findings]
    table("This machine", ("", "found", "why, or what to do"), rows)
    troubles = [finding.topic for finding in findings if not finding.ok]
    say(f"needs attention (!): {', '.join(dict.fromkeys(troubles))}" if troubles else "nothing is missing")
    return DoctorResult(findings)


def _software(visit: _Visit) -> Iterator[Finding]:
    found = hardware.software()
    revision = f"commit {found['revision']}" if found["revision"] else "no git checkout"
    yield Finding("nanochat", found["nanochat"] or "not installed", revision)
    yield Finding("python", str(found["python"]), sys.executable)
    built = f"built for CUDA {found['cuda']}" if found["cuda"] else "built without CUDA"
    yield Finding("torch", str(found["torch"]), built)


def _machine(visit: _Visit) -> Iterator[Finding]:
    cpu, memory = hardware.cpu(), hardware.memory()
    units = ", ".join(cpu.vector_units) or "no AVX2"
    yield Finding("processor", cpu.model, f"{cpu.cores} cores, {cpu.usable:g} usable here; {units}")
    asked = os.environ.get("OMP_NUM_THREADS")
    why = f"OMP_NUM_THREADS={asked}" if asked else "torch's choice; OMP_NUM_THREADS changes it"
    yield Finding("threads", str(torch.get_num_threads()), why)
    found = f"{memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} free"
    limited = hardware.memory_limit()[0] == memory.total
    yield Finding("memory", found, "the container's limit" if limited else "all of the machine's")
    gpus = hardware.accelerators()
    for gpu in gpus:
        peak = hardware.peak_flops(gpu.name, "bf16")
        rate = f"{peak / 1e12:.0f} TFLOP/s in bf16 at best" if peak else "peak rate unknown: no MFU is shown"
        yield Finding("accelerator", f"{gpu.name}, {gpu.memory / 2**30:.0f} GiB", rate)
    if len(gpus) > 1:
        launch = f"torchrun --standalone --nproc_per_node={len(gpus)} -m nanochat …"
        yield Finding("accelerators", str(len(gpus)), f"use all: {launch}")
    if not gpus:
        why = "torch was built without CUDA" if torch.version.cuda is None else "torch finds no GPU or driver"
        yield Finding("accelerator", "none", why)


def _backend(visit: _Visit) -> Iterator[Finding]:
    runtime = visit.runtime
    used = None
    try:
        backend = choose_backend(runtime, training_flops=1)  # as training does
    except EnvironmentFault as fault:
        yield Finding("attention", "none", str(fault), ok=False)
    else:
        used = backend.attention
        yield from (Finding(*choice) for choice in backend.describe() if choice.what not in _BY_RUN)
    for probe in probe_kernels(runtime.device, runtime.compute_dtype):
        if probe.name != used:
            found = f"{probe.name}: {'usable' if probe.usable else 'not usable'}"
            yield Finding("other attention", found, probe.reason)


def _compilation(visit: _Visit) -> Iterator[Finding]:
    path = compiler()
    wanted = os.environ.get("CXX") or USUAL_COMPILER
    uses = "for torch.compile, and to compile training and decoding on a CPU"
    without = "no torch.compile, and slower training and decoding on a CPU"
    missing = f"{without}; install {USUAL_COMPILER} (GCC 11 or Clang 14, or newer), or set CXX"
    yield Finding("C++ compiler", path or f"no {wanted}", uses if path else missing, bool(path))
    if path:
        yield from _failed_libraries(visit.runtime.paths.code_cache, path)
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not headers.exists() and visit.runtime.device.type == "cuda":
        missing = f"torch.compile needs {headers} (a package like python{platform.python_version()[:4]}-dev)"
        yield Finding("Python headers", "missing", missing, ok=False)
    if visit.config.probe_compile:
        usable, reason = probe_compile(visit.runtime.device)
        yield Finding("torch.compile", "works" if usable else "does not work", reason, usable)
    else:
        yield Finding(
            "torch.compile", "not tried", "--probe-compile tries it; runs on CUDA or with --compile on do too"
        )


def _failed_libraries(code_cache: Path, compiler: str) -> Iterator[Finding]:
    for source, flags in ((DECODER_SOURCE, ()), *((source, OPENMP) for source in NATIVE_SOURCES)):
        why = failure(library_path(source, code_cache, compiler, flags))
        if why is not None:
            yield Finding(source.name, "not compiled", why, ok=False)


def _disk(visit: _Visit) -> Iterator[Finding]:
    base = visit.runtime.paths.base
    source = (
        "NANOCHAT_BASE_DIR"
        if os.environ.get("NANOCHAT_BASE_DIR")
        else "the default; NANOCHAT_BASE_DIR moves it"
    )
    home = next(parent for parent in (base, *base.parents) if parent.exists())
    if not home.is_dir() or not os.access(home, os.W_OK):
        yield Finding(
            "base directory", str(base), f"cannot be written: set NANOCHAT_BASE_DIR ({source})", ok=False
        )
        return
    yield Finding("base directory", str(base), source)
    free = shutil.disk_usage(home).free
    enough = free >= _LOW_DISK_BYTES
    yield Finding(
        "disk", f"{free / 1e9:.1f} GB free", "enough to begin" if enough else "free some space", enough
    )


def _hub(visit: _Visit) -> Iterator[Finding]:
    address = endpoint()
    source = "HF_ENDPOINT" if os.environ.get("HF_ENDPOINT") else "the default; HF_ENDPOINT changes it"
    if is_offline():
        yield Finding("hub", "offline", "HF_HUB_OFFLINE is set: only downloaded files are used")
    elif visit.config.probe_hub:
        answer = _reach(address)
        yield Finding("hub", address, answer or f"answers ({source})", answer is None)
    else:
        yield Finding("hub", address, f"{source}; --probe-hub checks whether it answers")


def _reach(address: str) -> str | None:
    """Why the hub does not answer, or None; any HTTP status counts as an answer."""
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=_HUB_TIMEOUT_S).close()
    except urllib.error.HTTPError:
        return None
    except OSError as error:
        return f"does not answer ({getattr(error, 'reason', error)}); the builtin dataset needs no network"
    return None


def _sandbox(visit: _Visit) -> Iterator[Finding]:
    try:
        isolation = isolation_here()
    except EnvironmentFault as error:
        yield Finding("sandbox", "not working", str(error), ok=False)
        return
    found = "complete" if isolation.is_whole else "incomplete"
    safe = "programs of the model (humaneval) are isolated from this machine"
    missing = f"{isolation.explain()}; humaneval is skipped without --unsafe-sandbox: see docs/sandbox.md"
    yield Finding("sandbox", found, safe if isolation.is_whole else missing, isolation.is_whole)


def _packages(visit: _Visit) -> Iterator[Finding]:
    for package, use in _OPTIONAL.items():
        present = importlib.util.find_spec(package) is not None
        yield Finding(package, "installed" if present else "not installed", use)


_LOOKS: tuple[Callable[[_Visit], Iterator[Finding]], ...] = (
    _software,
    _machine,
    _backend,
    _compilation,
    _disk,
    _hub,
    _sandbox,
    _packages,
)
