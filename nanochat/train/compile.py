"""torch.compile, behind one flag: probed first, and eager where it does not work.

One block is compiled and reused by all layers, and the loss's arithmetic on a chunk of logits; so the cold time does
not grow with depth.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from nanochat.console import say, warn
from nanochat.errors import EnvironmentFault
from nanochat.model.gpt import GPT
from nanochat.model.layers import Block
from nanochat.model.loss import chunk_loss

CompileMode = Literal["auto", "on", "off"]

# Below this many FLOPs on a CPU the cold compile takes longer than it saves (docs/log.md).
_CPU_WORTHWHILE_FLOPS = 2e14


def probe(device: torch.device) -> tuple[bool, str]:
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
        return False, f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160]}"
    return True, "a small function compiled, ran forward and backward, and agreed with eager"


def choose(mode: CompileMode, device: torch.device, total_flops: float) -> tuple[bool, str]:
    """(compile or not, reason). Raises EnvironmentFault when it was demanded and cannot be."""
    if mode == "off":
        return False, "asked to stay eager"
    if mode == "auto" and device.type == "mps":
        return False, "compiling for Apple GPUs is experimental in PyTorch"
    if mode == "auto" and device.type == "cpu" and total_flops < _CPU_WORTHWHILE_FLOPS:
        return False, "the run is too short to repay a cold compile"
    usable, reason = probe(device)
    if not usable and mode == "on":
        raise EnvironmentFault(
            f"--compile on, but torch.compile does not work here ({reason}): use --compile auto or off"
        )
    if not usable:
        warn(f"staying eager: torch.compile does not work here ({reason})")
    return usable, reason


def compile_model(model: GPT) -> None:
    """Run the model's blocks and its loss compiled from now on."""
    model.run_block = torch.compile(Block.forward, dynamic=False)
    model.chunk_kernel = torch.compile(chunk_loss, dynamic=False)


def warm_up(model: GPT, rows: int) -> float:
    """Run forward and backward once on a batch of the run's shape, leaving no gradients; returns the seconds."""
    began = time.perf_counter()
    ids = torch.zeros(rows, model.config.max_seq_len, dtype=torch.long, device=model.head.weight.device)
    nats, _ = model.loss(model(ids), ids)
    nats.backward()
    for parameter in model.parameters():
        parameter.grad = None
    seconds = time.perf_counter() - began
    say(f"compiled in {seconds:.0f} s")
    return seconds


@contextmanager
def eager(model: GPT) -> Iterator[None]:
    """Run the model eagerly inside, for evaluations whose batches differ in shape."""
    compiled = model.run_block
    model.run_block = Block.__call__
    try:
        yield
    finally:
        model.run_block = compiled
