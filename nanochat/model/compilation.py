"""What torch.compile compiles of training steps: tried first; eager if it does not work."""

from typing import Literal

import torch
from torch import Tensor

from nanochat.console import warn
from nanochat.errors import EnvironmentFault, first_line

CompileMode = Literal["auto", "on", "off"]
CompiledPart = Literal["nothing", "block", "model"]
"""block: one block, reused by all layers, so that the cold time does not grow with depth; model: all layers as one,
which also fuses what lies between blocks."""

_EAGER_DEVICES = {
    "cpu": "compiled steps are no faster on a CPU",  # docs/log.md, 2026-11-26
    "mps": "compiling for Apple GPUs is experimental in PyTorch",
}
"""Why `auto` does not compile for a kind of device."""
WHOLE_MODEL_FLOPS = 3e17
"""From here on, a quarter of an hour on an H100, compiling all layers as one repays on a GPU (docs/log.md)."""


def probe_compile(device: torch.device) -> tuple[bool, str]:
    """(usable, reason), after compiling a few operations forward and backward. Takes seconds; never raises."""

    def small(x: Tensor) -> Tensor:
        return (torch.tanh(x) * x.exp()).sum(dim=-1)

    try:
        x = torch.linspace(-1, 1, 64, device=device).view(4, 16).requires_grad_()
        expected = torch.autograd.grad(small(x).sum(), x)[0]
        actual = torch.autograd.grad(torch.compile(small, dynamic=False)(x).sum(), x)[0]
        if not torch.allclose(expected, actual, atol=1e-4):
            return False, "compiled code gave other results than eager code"
    except Exception as error:  # compilers and drivers fail in many ways; each means: stay eager
        return False, f"{type(error).__name__}: {first_line(error)[:160]}"
    return True, "a small function compiled, ran forward and backward, and agreed with eager"


def choose_compile(
    mode: CompileMode, device: torch.device, training_flops: float
) -> tuple[CompiledPart, str]:
    """(what to compile, reason) for a run of `training_flops` FLOPs.

    Raises EnvironmentFault if compilation is required and does not work.
    """
    if mode == "off":
        return "nothing", "only pretraining and fine-tuning are compiled, and not with --compile off"
    if mode == "auto" and device.type in _EAGER_DEVICES:
        return "nothing", _EAGER_DEVICES[device.type]
    usable, reason = probe_compile(device)
    if not usable and mode == "on":
        raise EnvironmentFault(
            f"--compile on, but torch.compile does not work here ({reason}): use --compile auto or off"
        )
    if not usable:
        warn(f"staying eager: torch.compile does not work here ({reason})")
        return "nothing", reason
    if device.type == "cuda" and training_flops >= WHOLE_MODEL_FLOPS:
        return "model", f"all layers as one; {reason}"
    return "block", f"one block for all layers; {reason}"
