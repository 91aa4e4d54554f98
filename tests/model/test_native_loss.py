"""The compiled loss equals PyTorch's, whatever the sizes and dtype; without it training runs as before."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.model import backend, native_loss
from nanochat.model.loss import IGNORE, ChunkLoss, chunk_loss
from nanochat.model.native_loss import find_native_loss
from nanochat.native.library import compiler

needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def loss(tmp_path_factory: pytest.TempPathFactory) -> ChunkLoss:
    found, why = find_native_loss(tmp_path_factory.mktemp("code"))
    assert found is not None, why
    return found


@needs_compiler
@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 9),
    vocabulary=st.integers(1, 150),
    cap=st.sampled_from([0.0, 5.0, 15.0]),
    spread=st.sampled_from([0.1, 5.0, 500.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 999),
)
def test_nats_and_gradients_are_those_of_pytorch(
    loss: ChunkLoss, rows: int, vocabulary: int, cap: float, spread: float, dtype: torch.dtype, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    raw_NV = (spread * torch.randn(rows, vocabulary, generator=generator)).to(dtype)
    targets_N = torch.randint(IGNORE, vocabulary, (rows,), generator=generator)
    expected_N, expected_NV = chunk_loss(raw_NV.float().clone(), targets_N, cap)
    nats_N, grad_NV = loss(raw_NV.clone(), targets_N, cap)
    torch.testing.assert_close(nats_N, expected_N, rtol=1e-5, atol=2e-5)
    if cap:
        assert grad_NV.dtype == dtype
    precision = {"rtol": 1e-4, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 2**-7, "atol": 1e-4}
    torch.testing.assert_close(grad_NV.float(), expected_NV, **precision)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("dtype", native_loss._TOLERANCES)
@pytest.mark.parametrize("vocabulary", [64, 67])
def test_a_target_that_is_no_token_is_not_a_number(
    loss: ChunkLoss, vocabulary: int, dtype: torch.dtype
) -> None:
    """And nothing is written beyond its row."""
    raw_NV = torch.randn(8, vocabulary, generator=torch.Generator().manual_seed(1)).to(dtype)
    targets_N = torch.tensor([vocabulary, 0, vocabulary + 1, IGNORE, -2, vocabulary - 1, -(10**12), 5])
    expected_N, expected_NV = loss(raw_NV[1::2].clone(), targets_N[1::2], 15.0)
    nats_N, grad_NV = loss(raw_NV, targets_N, 15.0)
    assert torch.equal(nats_N[1::2], expected_N)
    assert torch.equal(grad_NV[1::2], expected_NV)
    assert nats_N[::2].isnan().all()
    assert grad_NV[::2].isnan().all()


@needs_compiler
@pytest.mark.slow
def test_a_row_does_not_depend_on_the_number_of_threads(loss: ChunkLoss) -> None:
    raw_NV = torch.randn(64, 100, generator=torch.Generator().manual_seed(1))
    targets_N = torch.arange(64)
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(torch.cat([part.flatten() for part in loss(raw_NV.clone(), targets_N, 15.0)]))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_what_cannot_be_compiled_is_named_and_pytorch_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = tmp_path / "compiler"
    failing.write_text("#!/bin/sh\necho no space left >&2\nexit 1\n")
    failing.chmod(0o755)
    monkeypatch.setenv("CXX", str(failing))
    found, why = find_native_loss(tmp_path / "code")
    assert found is None
    assert "the C++ compiler failed" in why
    assert backend._choose_native(CPU, tmp_path / "code", 1e15) == (False, why)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("dtype", native_loss._TOLERANCES)
def test_a_library_with_other_results_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setitem(native_loss._TOLERANCES, dtype, 0.0)
    found, why = find_native_loss(tmp_path / "other")
    assert found is None
    assert "differs from PyTorch's" in why


def test_small_runs_and_other_devices_compile_nothing(tmp_path: Path) -> None:
    assert not backend._choose_native(CPU, tmp_path, 1e9)[0]
    assert not backend._choose_native(torch.device("mps"), tmp_path, 1e15)[0]
    assert not list(tmp_path.iterdir())
