"""Every choice of a backend has a reason, and computes the same as plain PyTorch."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nanochat import runtime as machine
from nanochat.model import backend as backends
from nanochat.model import matmul
from nanochat.model.backend import REFERENCE, Backend, choose_backend, memory_model
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.model.operators import Operators
from nanochat.native.library import compiler
from nanochat.processes import Processes
from nanochat.runtime import Runtime

CONFIG = GPTConfig(max_seq_len=32, vocab_size=100, n_layer=2, n_head=2, n_kv_head=1, head_dim=16, n_embd=32)
ONEDNN = replace(REFERENCE, product="oneDNN")


@pytest.fixture
def any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make trials succeed on devices that this machine lacks."""
    monkeypatch.setattr(backends, "choose_kernel", lambda device, dtype, training: ("sdpa", "a trial"))
    monkeypatch.setattr(backends, "choose_fp8", lambda asked, device: (asked, "a flag"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 0))


@pytest.mark.parametrize("device", ["cpu", "mps", "cuda"])
def test_the_loss_and_the_memory_estimate_read_one_number(
    any_device: None, runtime: Callable[..., Runtime], device: str
) -> None:
    dtype, _ = machine.choose_dtype(device)
    here = replace(runtime(), device=torch.device(device), compute_dtype=dtype)
    chosen = choose_backend(here)
    assert chosen.memory == memory_model(device, dtype), "the plan's estimate for such a device"
    assert chosen.memory.compute_bytes == dtype.itemsize
    assert memory_model(device, torch.float32).compute_bytes == 4


def test_every_choice_is_described_with_its_reason(runtime: Callable[..., Runtime]) -> None:
    here = replace(runtime(), device_reason="why this device", dtype_reason="why this dtype")
    chosen = choose_backend(here)
    lines = [str(choice) for choice in chosen.describe()]
    assert "device: cpu (why this device)" in lines
    assert "compute dtype: float32 (why this dtype)" in lines
    choices = {field.name for field in fields(Backend)} - {"reasons", "code_cache"}
    assert len(lines) == len(choices), "a line for each choice"
    assert all(choice.why for choice in chosen.describe())


def test_choosing_again_chooses_the_same(runtime: Callable[..., Runtime]) -> None:
    assert choose_backend(runtime()) == choose_backend(runtime())


def test_fp8_is_refused_without_fp8_units(runtime: Callable[..., Runtime]) -> None:
    with pytest.raises(ValueError, match="--fp8 needs a GPU"):
        choose_backend(runtime(), fp8=True)


@pytest.mark.parametrize(
    ("backend", "block", "head"),
    [
        (REFERENCE, "BLAS", "BLAS"),
        (ONEDNN, "oneDNN", "oneDNN"),
        (replace(REFERENCE, fp8=True), "fp8", "BLAS"),
        (replace(ONEDNN, fp8=True), "fp8", "oneDNN"),
    ],
)
def test_each_layer_multiplies_by_its_role(backend: Backend, block: str, head: str) -> None:
    functions = {"BLAS": matmul.blas_linear, "oneDNN": matmul.onednn_linear, "fp8": backends.fp8_linear}
    model = GPT(CONFIG, backend)
    assert model.head.multiply is functions[head]
    assert model.smear_gate.multiply is matmul.blas_linear
    layer = next(model.layers())
    assert all(
        linear.multiply is functions[block]
        for linear in (layer.attention.q, layer.attention.out, layer.mlp.up, layer.mlp.down)
    )


@pytest.mark.parametrize("without", [0, 1])
def test_cpp_that_one_process_cannot_use_is_used_by_none(
    runtime: Callable[..., Runtime], monkeypatch: pytest.MonkeyPatch, without: int
) -> None:
    class Beside(Processes):
        """Process 0 or 1 of two, of which the other one answers as given."""

        def decide(self, choose: Callable[[], object]) -> object:
            return choose() if self.rank == 0 else (without != 0, "it was tried")

        def any(self, flag: bool) -> bool:
            return flag or self.rank != without

    for rank in (0, 1):
        monkeypatch.setattr(backends, "_choose_native", lambda *_, rank=rank: (rank != without, "tried"))
        assert not choose_backend(replace(runtime(), processes=Beside(rank))).native


@pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
def test_a_run_that_cannot_keep_compiled_code_trains_in_pytorch(tmp_path: Path) -> None:
    (tmp_path / "code").touch()
    native, reason = backends._choose_native(torch.device("cpu"), tmp_path / "code", 1e18)
    assert not native
    assert "File exists" in reason


def test_sizes_that_fp8_units_cannot_multiply_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 16"):
        GPT(replace(CONFIG, n_embd=24), replace(REFERENCE, fp8=True))
    with pytest.raises(ValueError, match="multiple of 16, not 40 tokens"):
        GPT(replace(CONFIG, max_seq_len=40), replace(REFERENCE, fp8=True))


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")
def test_inference_through_onednn_equals_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def recording(a_MK: Tensor, b_NK: Tensor) -> Tensor:
        calls.append(a_MK.size(0))
        return product(a_MK, b_NK)

    product = matmul.onednn_product
    monkeypatch.setattr(matmul, "onednn_product", recording)
    monkeypatch.setattr(matmul, "_ONEDNN_MULTIPLICATIONS", 0)
    plain = GPT(CONFIG, REFERENCE).eval()
    plain.init_weights(0)
    fast = GPT(CONFIG, ONEDNN).eval()
    fast.load_state_dict(plain.state_dict())
    ids = torch.randint(0, 100, (2, 32), generator=torch.Generator().manual_seed(0))
    results = []
    with torch.inference_mode():
        for model in (plain, fast):
            hidden = model(ids)
            results.append((hidden, model.logits(hidden), model.token_losses(hidden, ids)))
    torch.testing.assert_close(results[0], results[1], atol=1e-4, rtol=1e-4)
    blocks, logits_and_losses = 6 * CONFIG.n_layer, 2
    assert calls == [64] * (blocks + logits_and_losses)


def test_small_products_of_inference_go_to_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []

    def recording(a_MK: Tensor, b_NK: Tensor) -> Tensor:
        calls.append((a_MK.size(0), b_NK.size(0)))
        return matmul.blas_product(a_MK, b_NK)

    monkeypatch.setattr(matmul, "onednn_product", recording)
    small, large = torch.ones(256, 256), torch.ones(4096, 256)
    with torch.inference_mode():
        for weight in (small, large):
            for rows in (1, 8, 256):
                matmul.onednn_linear(torch.ones(rows, 1, 256), weight)
    assert calls == [(256, 256), (8, 4096), (256, 4096)]
    calls.clear()
    matmul.onednn_linear(torch.ones(1, 256), small.requires_grad_())
    assert calls == [(1, 256)], "training multiplies everything through oneDNN"


@pytest.mark.slow
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")
def test_a_loaded_model_does_not_wait_for_the_compiler() -> None:
    """torch's compiler takes seconds to import, and the first call of a custom operator would load it."""
    script = (
        "import sys, torch; from nanochat.model import attention, matmul; "
        "matmul.onednn_linear(torch.ones(2, 3), torch.ones(4, 3)); "
        "attention.choose_kernel(torch.device('cpu'), torch.float32); "
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_compiled_steps_and_runs_without_cpp_compute_with_the_operators_of_pytorch() -> None:
    assert (
        REFERENCE.operators == replace(REFERENCE, native=True, compiled_part="block").operators == Operators()
    )
