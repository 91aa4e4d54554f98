"""Causal attention with sliding windows: a table of kernels, chosen by a trial of each.

Shapes: B rows, T queries, S keys, H query heads, K key heads, D channels of a head.
All kernels compute the same: query t sees the keys t - window + 1 … t.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.errors import EnvironmentFault

KernelName = Literal["fa3", "flash", "sdpa"]
AttentionKernel = Callable[[Tensor, Tensor, Tensor, int], Tensor]


@lru_cache(maxsize=32)
def _band_mask(length: int, window: int, device: torch.device) -> Tensor:
    t = torch.arange(length, device=device)
    distance_TS = t[:, None] - t[None, :]
    return (distance_TS >= 0) & (distance_TS < window)


def sdpa(q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, window: int) -> Tensor:
    """PyTorch's own attention, on any device. Windows shorter than the sequence need a T x T mask."""
    length = q_BTHD.size(1)
    masked = window < length
    y_BHTD = F.scaled_dot_product_attention(
        q_BTHD.transpose(1, 2),
        k_BTKD.transpose(1, 2),
        v_BTKD.transpose(1, 2),
        attn_mask=_band_mask(length, window, q_BTHD.device) if masked else None,
        is_causal=not masked,
        enable_gqa=q_BTHD.size(2) != k_BTKD.size(2),
    )
    return y_BHTD.transpose(1, 2)


def flash(q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, window: int) -> Tensor:
    """PyTorch's own attention over the whole sequence, `varlen` over windows: each is the faster one there."""
    kernel = varlen if window < q_BTHD.size(1) else sdpa
    return kernel(q_BTHD, k_BTKD, v_BTKD, window)


def varlen(q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, window: int) -> Tensor:
    """FlashAttention through torch.nn.attention.varlen: windows skip work instead of masking it."""
    from torch.nn.attention.varlen import varlen_attn

    B, T, H, _ = q_BTHD.shape
    groups = H // k_BTKD.size(2)
    if groups > 1:  # enable_gqa came after the oldest torch we support
        k_BTKD, v_BTKD = (x.repeat_interleave(groups, dim=2) for x in (k_BTKD, v_BTKD))
    bounds = torch.arange(0, (B + 1) * T, T, dtype=torch.int32, device=q_BTHD.device)
    left = window - 1 if window < T else -1
    y = varlen_attn(
        q_BTHD.flatten(0, 1),
        k_BTKD.flatten(0, 1),
        v_BTKD.flatten(0, 1),
        bounds,
        bounds,
        T,
        T,
        window_size=(left, 0),
    )
    return y.view_as(q_BTHD)  # type: ignore[union-attr]


@dataclass(frozen=True)
class KernelProbe:
    """The result of trying a kernel on this machine."""

    name: KernelName
    usable: bool
    reason: str


def _activate_fa3() -> None:
    from torch.nn.attention import activate_flash_attention_impl

    activate_flash_attention_impl("FA3")


@dataclass(frozen=True)
class KernelCandidate:
    """A kernel, and the set-up it needs before its first use."""

    run: AttentionKernel
    activate: Callable[[], None] = lambda: None
    cuda_only: bool = False


KERNELS: dict[KernelName, KernelCandidate] = {  # best first
    "fa3": KernelCandidate(varlen, _activate_fa3, cuda_only=True),
    "flash": KernelCandidate(flash, cuda_only=True),
    "sdpa": KernelCandidate(sdpa),
}


def probe_kernels(device: torch.device, dtype: torch.dtype) -> list[KernelProbe]:
    """Try each kernel forward and backward on a tiny windowed input, best first; never raises."""
    return [_probe(name, candidate, device, dtype) for name, candidate in KERNELS.items()]


def _probe(
    name: KernelName, candidate: KernelCandidate, device: torch.device, dtype: torch.dtype
) -> KernelProbe:
    if candidate.cuda_only and device.type != "cuda":
        return KernelProbe(name, False, f"needs CUDA, this is {device.type}")
    try:
        candidate.activate()
        generator = torch.Generator().manual_seed(0)
        q, k, v = (
            torch.randn(2, 128, 2, 64, generator=generator).to(device, dtype).requires_grad_()
            for _ in range(3)
        )
        y = candidate.run(q, k, v, 32)
        y.float().square().sum().backward()
        expected = sdpa(q.detach(), k.detach(), v.detach(), 32)
        error = (y.detach() - expected).abs().max().item()
        if not error < 0.05 or q.grad is None or not q.grad.isfinite().all():
            return KernelProbe(name, False, f"ran, but differs from sdpa by {error:.3g}")
    except Exception as error:  # a probe reports whatever a driver or build throws
        return KernelProbe(name, False, str(error).splitlines()[0][:120] or type(error).__name__)
    return KernelProbe(name, True, "forward and backward ran and agree with sdpa")


def choose_kernel(device: torch.device, dtype: torch.dtype) -> tuple[KernelName, str]:
    """(the best kernel that runs here, reason), ready for use. Raises EnvironmentFault when none runs."""
    probes = probe_kernels(device, dtype)
    usable = next((probe.name for probe in probes if probe.usable), None)
    if usable is None:
        raise EnvironmentFault(
            f"no attention kernel runs on {device} in {dtype} ({probes[-1].reason}): try --device cpu"
        )
    KERNELS[usable].activate()
    return usable, f"the first of {', '.join(KERNELS)} that runs here and agrees with sdpa"
