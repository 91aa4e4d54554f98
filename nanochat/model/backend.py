"""The kernels, dtypes and libraries of a model, chosen once per process and passed to its constructor.

Every choice depends on the hardware, the flags and a tiny trial, never on a timing, so that a resumed run computes
the same as before. Training, evaluation and chat all get their `Backend` from `choose_backend`.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor

from nanochat.errors import EnvironmentFault
from nanochat.model import native_attention, native_loss, native_operators
from nanochat.model.attention import KERNELS, AttentionKernel, KernelName, choose_kernel
from nanochat.model.compilation import (
    WHOLE_MODEL_FLOPS,
    CompiledPart,
    CompileMode,
    choose_compile,
)
from nanochat.model.fp8 import FP8_MULTIPLE, choose_fp8, fits_fp8, fp8_linear
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
from nanochat.model.operators import Operators
from nanochat.native.library import compile_together
from nanochat.runtime import Runtime

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

LayerRole = Literal["block", "gate", "head"]
"""block: the large matrices of attention and MLP; gate: a few channels wide; head: the logits."""

_WORTH_COMPILING = 1e12  # FLOPs of a training run, some seconds, from which on compiling C++ for it pays
NATIVE_SOURCES = (native_loss.SOURCE, native_attention.SOURCE, native_operators.SOURCE)


@dataclass(frozen=True)
class MemoryModel:
    """Properties of a device for the memory estimate."""

    blocks: Literal["eager", "compiled"]
    compute_bytes: int
    """Bytes per number in the compute dtype."""
    loss_chunk: int
    """Rows of logits computed at once in training: many, because each chunk adds to the gradient of the whole head."""

    @property
    def evaluation_chunk(self) -> int:
        """The same in evaluation, which keeps several copies in fp32."""
        return self.loss_chunk // 4


_MEMORY_MODELS = {
    "cuda": MemoryModel("compiled", compute_bytes=2, loss_chunk=16384),
    "mps": MemoryModel("eager", compute_bytes=2, loss_chunk=4096),
    "cpu": MemoryModel("eager", compute_bytes=4, loss_chunk=4096),
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
    compiled_part: CompiledPart
    """What is compiled of training steps; evaluation and decoding stay eager, because their shapes vary."""
    native: bool
    """Whether training computes loss and attention, and eager steps also the elementwise operators, in C++."""
    memory: MemoryModel
    reasons: Mapping[str, str]
    code_cache: Path | None = None
    """The folder of compiled code; None: do not compile any."""

    @property
    def matmul(self) -> Product:
        """The matrix product for the loss."""
        return PRODUCTS[self.product]

    @property
    def attend(self) -> AttentionKernel:
        """The attention kernel."""
        if self.native:
            kernel = _found(native_attention.find_native_attention(self.code_cache))
            return torch.compiler.disable(kernel) if self.compiles else kernel
        return KERNELS[self.attention].run

    @property
    def operators(self) -> Operators:
        """The elementwise operators. Compiled steps fuse PyTorch's."""
        native = self.native and not self.compiles
        return _found(native_operators.find_native_operators(self.code_cache)) if native else Operators()

    def documents(self, starts_BT: Tensor, window: int) -> Tensor:
        """What the attention kernel needs to keep the documents of a row apart."""
        return KERNELS[self.attention].documents(starts_BT, window)

    def linear(self, role: LayerRole, n_in: int, n_out: int) -> LinearFunction:
        """The function of a linear layer. Raises ValueError for sizes that fp8 units do not support."""
        names = {"block": "fp8" if self.fp8 else self.product, "gate": "BLAS", "head": self.product}
        if names[role] == "fp8" and not fits_fp8(n_in, n_out):
            raise ValueError(
                f"--fp8 needs matrices with sides that are multiples of {FP8_MULTIPLE}, not {n_out} × {n_in}: "
                "choose another --head-dim, or omit --fp8"
            )
        return _LINEAR_FUNCTIONS[names[role]]

    @property
    def chunk_loss(self) -> ChunkLoss:
        """The loss of a chunk of logits, for training."""
        if self.native:
            return _found(native_loss.find_native_loss(self.code_cache))
        return torch.compile(fusible_chunk_loss, dynamic=False) if self.compiles else chunk_loss

    def frozen(self, weight_OI: Tensor) -> FrozenLinear:
        """How inference multiplies by a weight, in the compute dtype. BLAS reads it where it is, oneDNN copies it."""
        return FROZEN[self.product](weight_OI)

    @property
    def compiles(self) -> bool:
        """Whether training steps are compiled."""
        return self.compiled_part != "nothing"

    def compiled(self, part: CompiledPart, function: Callable[P, R]) -> Callable[P, R]:
        """The function of a part of the model, compiled for fixed shapes if that part is what is compiled."""
        return torch.compile(function, dynamic=False) if part == self.compiled_part else function

    def describe(self) -> tuple[Choice, ...]:
        """Every choice with its reason, as training and `nanochat doctor` print them."""
        chosen = {
            "device": ("device", str(self.device)),
            "compute_dtype": ("compute dtype", str(self.compute_dtype).removeprefix("torch.")),
            "product": ("matrix products", self.product),
            "attention": ("attention", f"C++, else {self.attention}" if self.native else self.attention),
            "fp8": ("fp8", "on" if self.fp8 else "off"),
            "compiled_part": ("training steps", "compiled" if self.compiles else "eager"),
            "native": ("training operators", "C++" if self.native else "PyTorch"),
            "memory": ("loss chunk", f"{self.memory.loss_chunk:,} rows of logits"),
        }
        return tuple(Choice(what, found, self.reasons[name]) for name, (what, found) in chosen.items())


REFERENCE = Backend(
    device=torch.device("cpu"),
    compute_dtype=torch.float32,
    product="BLAS",
    attention="sdpa",
    fp8=False,
    compiled_part="nothing",
    native=False,
    memory=memory_model("cpu"),
    reasons=dict.fromkeys(
        ("device", "compute_dtype", "product", "attention", "fp8", "compiled_part", "native", "memory"),
        "works with every PyTorch",
    ),
)
"""Plain PyTorch in fp32, for counting parameters and as the reference in tests."""


def run_size(training_flops: float) -> int:
    """Runs of one size get the same backend on one machine under the same flags."""
    return sum(training_flops >= least for least in (_WORTH_COMPILING, WHOLE_MODEL_FLOPS))


def choose_backend(
    runtime: Runtime,
    *,
    fp8: bool = False,
    compile_mode: CompileMode = "off",
    training_flops: float = 0.0,
    begun_native: bool | None = None,
) -> Backend:
    """The best backend for this process's device.

    fp8: the flag --fp8. compile_mode: the flag --compile. training_flops: the run's FLOPs, 0 without training.
    begun_native: whether a run that is resumed began in C++; None: choose.
    Raises ValueError if fp8 is requested on a device without fp8 units, EnvironmentFault if no attention kernel works
    or `--compile on` is impossible, or C++ in which a run began.
    """
    device, dtype = runtime.device, runtime.compute_dtype
    use_fp8, fp8_reason = choose_fp8(fp8, device)  # first, because it needs no trial to refuse
    product, product_reason = choose_product(device, dtype)
    kernel, kernel_reason = choose_kernel(device, dtype, training=training_flops > 0)
    compiled_part, compile_reason = choose_compile(compile_mode, device, training_flops)
    if runtime.processes.any(compiled_part == "nothing") and compiled_part != "nothing":
        compiled_part, compile_reason = "nothing", "it does not work on every process"
    native, native_reason = _agree_on_native(runtime, training_flops, begun_native)
    runtime.processes.same("the backend", (str(dtype), product, kernel))
    return Backend(
        device=device,
        compute_dtype=dtype,
        product=product,
        attention=kernel,
        fp8=use_fp8,
        compiled_part=compiled_part,
        native=native,
        memory=memory_model(device.type, dtype),
        reasons={
            "device": runtime.device_reason,
            "compute_dtype": runtime.dtype_reason,
            "product": product_reason,
            "attention": kernel_reason,
            "fp8": fp8_reason,
            "compiled_part": compile_reason,
            "native": native_reason,
            "memory": "large, because each chunk adds to the gradient of the whole head",
        },
        code_cache=runtime.paths.code_cache,
    )


def _agree_on_native(runtime: Runtime, training_flops: float, begun_native: bool | None) -> tuple[bool, str]:
    """(whether all processes train in C++, why). A run keeps what it began with: other code computes other bits."""
    if begun_native is False:
        return False, "as the run began"
    flops = math.inf if begun_native else training_flops
    find = partial(_choose_native, runtime.device, runtime.paths.code_cache, flops)
    runtime.processes.decide(find)  # process 0 compiles, and those beside it find the library
    native, reason = find()
    if runtime.processes.any(not native) and native:
        native, reason = False, "it does not work on every process"
    if begun_native and not native:
        raise EnvironmentFault(
            f"the run began with operators in C++, which is not possible here ({reason}): "
            "make the C++ compiler work (see `nanochat doctor`), or begin another run with --model-tag"
        )
    return native, reason


def _choose_native(device: torch.device, code_cache: Path, training_flops: float) -> tuple[bool, str]:
    """(whether training computes in our own C++, why)."""
    if device.type != "cpu":
        return False, f"C++ is for CPUs, this is {device.type}"
    if training_flops < _WORTH_COMPILING:
        return False, "the run is too short for compiled code to pay"
    with suppress(OSError):  # the reason why the first of them is not there is found below
        compile_together(NATIVE_SOURCES, code_cache)
    finds = (
        native_loss.find_native_loss,
        native_attention.find_native_attention,
        native_operators.find_native_operators,
    )
    for find in finds:
        found, reason = find(code_cache)
        if found is None:
            return False, reason
    return True, "compiled for this processor, whose caches it is made for"


def _found(native: tuple[T | None, str]) -> T:
    found, _ = native
    assert found is not None, "it has been tried"
    return found
