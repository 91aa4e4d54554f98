"""Causal attention with sliding windows: a table of kernels, chosen by a trial of each.

Shapes: B rows, T queries, S keys, H query heads, K key heads, D channels of a head.
All kernels compute the same: query t sees the keys t - window + 1 … t, and of those only its own document's if
`documents` is given: what the kernel's candidate makes of the starts of documents, once per batch and window.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.errors import EnvironmentFault, first_line
from nanochat.model.document_mask import band_mask, document_bounds, document_mask

KernelName = Literal["fa4", "fa3", "flash", "sdpa"]


class AttentionKernel(Protocol):
    """Attention within rows, (B, T, H, D) → (B, T, H, D)."""

    def __call__(
        self, q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, window: int, documents: Tensor | None = None, /
    ) -> Tensor:
        """documents: None if a row is one document."""


_band_mask = lru_cache(maxsize=32)(band_mask)


def sdpa(
    q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, window: int, documents: Tensor | None = None
) -> Tensor:
    """PyTorch's own attention, on any device. Windows shorter than the sequence, and documents, need a T x T mask."""
    length = q_BTHD.size(1)
    masked = window < length or documents is not None
    if masked and documents is None:
        documents = _band_mask(length, window, q_BTHD.device)
    y_BHTD = F.scaled_dot_product_attention(
        q_BTHD.transpose(1, 2),
        k_BTKD.transpose(1, 2),
        v_BTKD.transpose(1, 2),
        attn_mask=documents,
        is_causal=not masked,
        enable_gqa=q_BTHD.size(2) != k_BTKD.size(2),
    )
    return y_BHTD.transpose(1, 2)


def flash(
    q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, window: int, documents: Tensor | None = None
) -> Tensor:
    """PyTorch's own attention over the whole sequence, `varlen` over less: each is the faster one there."""
    kernel = varlen if window < q_BTHD.size(1) or documents is not None else sdpa
    return kernel(q_BTHD, k_BTKD, v_BTKD, window, documents)


def varlen(
    q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, window: int, documents: Tensor | None = None
) -> Tensor:
    """FlashAttention through torch.nn.attention.varlen: windows and documents skip work instead of masking it."""
    from torch.nn.attention.varlen import varlen_attn

    B, T, H, _ = q_BTHD.shape
    groups = H // k_BTKD.size(2)
    if groups > 1:  # enable_gqa came after the oldest torch we support
        k_BTKD, v_BTKD = (x.repeat_interleave(groups, dim=2) for x in (k_BTKD, v_BTKD))
    bounds = documents
    if bounds is None:
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


def fa4(
    q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, window: int, documents: Tensor | None = None
) -> Tensor:
    """FlashAttention 4 for windows and documents, PyTorch's own attention over the whole sequence (docs/benchmarks.md).

    Needs the package flash-attn-4.
    """
    if window >= q_BTHD.size(1) and documents is None:
        return sdpa(q_BTHD, k_BTKD, v_BTKD, window)
    from nanochat.model.flash4 import flash4

    return flash4(q_BTHD, k_BTKD, v_BTKD, window, documents)


@dataclass(frozen=True)
class KernelProbe:
    """The result of trying a kernel on this machine."""

    name: KernelName
    usable: bool
    reason: str


def _activate_fa3() -> None:
    from torch.nn.attention import activate_flash_attention_impl

    activate_flash_attention_impl("FA3")


def _deactivate_fa3() -> None:
    from torch.nn import attention

    if attention.current_flash_attention_impl() is not None:
        attention.restore_flash_attention_impl()


@dataclass(frozen=True)
class KernelCandidate:
    """A kernel, its form of the starts of documents for a window, and the set-up it needs before its first use."""

    run: AttentionKernel
    documents: Callable[[Tensor, int], Tensor]
    activate: Callable[[], None] = lambda: None
    cuda_only: bool = False


KERNELS: dict[KernelName, KernelCandidate] = {  # best first
    "fa4": KernelCandidate(fa4, document_bounds, cuda_only=True),
    "fa3": KernelCandidate(varlen, document_bounds, _activate_fa3, cuda_only=True),
    "flash": KernelCandidate(flash, document_bounds, _deactivate_fa3, cuda_only=True),
    "sdpa": KernelCandidate(sdpa, document_mask),
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
        return KernelProbe(name, False, (first_line(error) or type(error).__name__)[:120])
    return KernelProbe(name, True, "forward and backward ran and agree with sdpa")


def choose_kernel(device: torch.device, dtype: torch.dtype, training: bool = True) -> tuple[KernelName, str]:
    """(the best kernel that runs here, reason), ready for use. Raises EnvironmentFault when none runs.

    training: else only PyTorch's own: trying others imports a compiler, which evaluation and decoding would wait for.
    """
    here = [name for name, each in KERNELS.items() if device.type == "cuda" or not each.cuda_only]
    candidates: list[KernelName] = here if training else ["sdpa"]
    reason = f"the first of {', '.join(candidates)} that runs here and agrees with sdpa"
    for name in candidates:
        probe = _probe(name, KERNELS[name], device, dtype)
        if probe.usable:
            return name, reason if len(candidates) > 1 else "PyTorch's own"
    raise EnvironmentFault(
        f"no attention kernel runs on {device} in {dtype} ({probe.reason}): try --device cpu"
    )
