"""The kernels, dtypes and libraries of a model, chosen once per process and passed to its constructor.

Every choice depends on the hardware, the flags and a tiny trial, never on a timing, so that a resumed run computes
the same as before. Training, evaluation and chat all get their `Backend` from `choose_backend`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor

from nanochat.model.attention import KERNELS, AttentionKernel, KernelName, choose_kernel
from nanochat.model.compilation import CPU_WORTHWHILE_FLOPS, CompileMode, choose_compile
from nanochat.model.fp8 import choose_fp8, fits_fp8, fp8_linear
from nanochat.model.loss import ChunkLoss, chunk_loss, fusible_chunk_loss
from nanochat.model.matmul import (
    FROZEN,
    PRODUCTS,
    FrozenLinear,
    LinearFunction,
    Product,
    ProductName,
    blas_linear,
    choose_product,
    onednn_linear,
)
from nanochat.model.native_loss import find_native_loss
from nanochat.runtime import Runtime

P = ParamSpec("P")
R = TypeVar("R")

LossName = Literal["C++", "compiled", "eager"]
LayerRole = Literal["block", "gate", "head"]
"""block: the large matrices of attention and MLP; gate: a few channels wide; head: the logits."""

_WORTH_COMPILING = 1e12
"""FLOPs of a training run, some seconds, from which on the loss is compiled from C++."""


@dataclass(frozen=True)
class MemoryModel:
    """Properties of a device for the memory estimate."""

    blocks: Literal["eager", "compiled"]
    compute_bytes: int
    """Bytes per number in the compute dtype."""
    loss_chunk: int
    """Rows of logits computed at once: few enough for a CPU's caches, enough to fill a GPU."""


_MEMORY_MODELS = {
    "cuda": MemoryModel("compiled", compute_bytes=2, loss_chunk=16384),
    "mps": MemoryModel("eager", compute_bytes=2, loss_chunk=4096),
    "cpu": MemoryModel("eager", compute_bytes=4, loss_chunk=1024),
}


def memory_model(device: str, dtype: torch.dtype | None = None) -> MemoryModel:
    """The memory model of a device type, by default in its usual compute dtype."""
    usual = _MEMORY_MODELS[device]
    return usual if dtype is None else replace(usual, compute_bytes=dtype.itemsize)


class Choice(NamedTuple):
    """One line of a backend's description."""

    what: str
    chosen: str
    why: str

    def __str__(self) -> str:
        return f"{self.what}: {self.chosen} ({self.why})"


_LINEAR_FUNCTIONS: dict[str, LinearFunction] = {
    "BLAS": blas_linear,
    "oneDNN": onednn_linear,
    "fp8": fp8_linear,
}


@dataclass(frozen=True)
class Backend:
    """Where and how a model computes; `reasons` maps fields to explanations."""

    device: torch.device
    compute_dtype: torch.dtype
    """The dtype of matrix products and activations; weights stay fp32."""
    product: ProductName
    attention: KernelName
    fp8: bool
    """Whether the blocks' matrices are multiplied in fp8."""
    compile: bool
    """Whether training steps are compiled; evaluation and decoding stay eager, because their shapes vary."""
    loss: LossName
    """What computes the loss in training, and its gradient."""
    memory: MemoryModel
    reasons: Mapping[str, str]
    code_cache: Path | None = None
    """The folder of compiled code for decoding; None: do not compile any."""

    @property
    def matmul(self) -> Product:
        """The matrix product for the loss."""
        return PRODUCTS[self.product]

    @property
    def attend(self) -> AttentionKernel:
        """The attention kernel."""
        return KERNELS[self.attention].run

    def documents(self, starts_BT: Tensor, window: int) -> Tensor:
        """What the attention kernel needs to keep the documents of a row apart."""
        return KERNELS[self.attention].documents(starts_BT, window)

    def linear(self, role: LayerRole, n_in: int, n_out: int) -> LinearFunction:
        """The function of a linear layer. Raises ValueError for sizes that fp8 units do not support."""
        names = {"block": "fp8" if self.fp8 else self.product, "gate": "BLAS", "head": self.product}
        if names[role] == "fp8" and not fits_fp8(n_in, n_out):
            raise ValueError(
                f"--fp8 needs matrices with sides that are multiples of 16, not {n_out} × {n_in}: "
                "choose another --head-dim, or omit --fp8"
            )
        return _LINEAR_FUNCTIONS[names[role]]

    @property
    def chunk_loss(self) -> ChunkLoss:
        """The loss of a chunk of logits, for training."""
        if self.loss == "C++":
            native, _ = find_native_loss(self.code_cache)
            assert native is not None, "it has been tried"
            return native
        return torch.compile(fusible_chunk_loss, dynamic=False) if self.loss == "compiled" else chunk_loss

    def frozen(self, weight_OI: Tensor) -> FrozenLinear:
        """How inference multiplies by a weight, in the compute dtype, that no longer changes."""
        return FROZEN[self.product](weight_OI)

    def compiled(self, function: Callable[P, R]) -> Callable[P, R]:
        """The function, compiled for fixed shapes if this backend compiles training steps."""
        return torch.compile(function, dynamic=False) if self.compile else function

    def describe(self) -> tuple[Choice, ...]:
        """Every choice with its reason, as training and `nanochat doctor` print them."""
        chosen = {
            "device": ("device", str(self.device)),
            "compute_dtype": ("compute dtype", str(self.compute_dtype).removeprefix("torch.")),
            "product": ("matrix products", self.product),
            "attention": ("attention", self.attention),
            "fp8": ("fp8", "on" if self.fp8 else "off"),
            "compile": ("training steps", "compiled" if self.compile else "eager"),
            "loss": ("loss", self.loss),
            "memory": ("loss chunk", f"{self.memory.loss_chunk:,} rows of logits"),
        }
        return tuple(Choice(what, found, self.reasons[name]) for name, (what, found) in chosen.items())


REFERENCE = Backend(
    device=torch.device("cpu"),
    compute_dtype=torch.float32,
    product="BLAS",
    attention="sdpa",
    fp8=False,
    compile=False,
    loss="eager",
    memory=memory_model("cpu"),
    reasons=dict.fromkeys(
        ("device", "compute_dtype", "product", "attention", "fp8", "compile", "loss", "memory"),
        "works with every PyTorch",
    ),
)
"""Plain PyTorch in fp32, for counting parameters and as the reference in tests."""


def run_size(training_flops: float) -> int:
    """Runs of one size get the same backend on one machine under the same flags."""
    return sum(training_flops >= least for least in (_WORTH_COMPILING, CPU_WORTHWHILE_FLOPS))


def choose_backend(
    runtime: Runtime, *, fp8: bool = False, compile_mode: CompileMode = "off", training_flops: float = 0.0
) -> Backend:
    """The best backend for this process's device.

    fp8: the flag --fp8. compile_mode: the flag --compile. training_flops: the run's FLOPs, 0 without training.
    Raises ValueError if fp8 is requested on a device without fp8 units, EnvironmentFault if no attention kernel works
    or `--compile on` is impossible.
    """
    device, dtype = runtime.device, runtime.compute_dtype
    use_fp8, fp8_reason = choose_fp8(fp8, device)  # first, because it needs no trial to refuse
    product, product_reason = choose_product(device, dtype)
    kernel, kernel_reason = choose_kernel(device, dtype)
    use_compile, compile_reason = choose_compile(compile_mode, device, training_flops)
    if runtime.processes.any(not use_compile) and use_compile:
        use_compile, compile_reason = False, "it does not work on every process"
    code_cache = runtime.paths.code_cache
    loss, loss_reason = runtime.processes.decide(
        lambda: _choose_loss(device, code_cache, use_compile, training_flops)
    )
    runtime.processes.same("the backend", (str(dtype), product, kernel))
    return Backend(
        device=device,
        compute_dtype=dtype,
        product=product,
        attention=kernel,
        fp8=use_fp8,
        compile=use_compile,
        loss=loss,
        memory=memory_model(device.type, dtype),
        reasons={
            "device": runtime.device_reason,
            "compute_dtype": runtime.dtype_reason,
            "product": product_reason,
            "attention": kernel_reason,
            "fp8": fp8_reason,
            "compile": compile_reason,
            "loss": loss_reason,
            "memory": "fits a CPU's caches, or fills a GPU",
        },
        code_cache=code_cache,
    )


def _choose_loss(
    device: torch.device, code_cache: Path, compiled: bool, training_flops: float
) -> tuple[LossName, str]:
    """(what computes the loss, why)."""
    if device.type == "cpu" and training_flops >= _WORTH_COMPILING:
        native, reason = find_native_loss(code_cache)
        if native is not None:
            return "C++", "reads the logits twice, while they are in a core's cache"
    elif device.type == "cpu":
        reason = "a small run, or none"
    else:
        reason = f"C++ is for CPUs, this is {device.type}"
    return "compiled" if compiled else "eager", reason
