"""The compiled attention equals PyTorch's, forward and backward, for every shape that it takes."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.model import native_attention
from nanochat.model.attention import AttentionKernel, sdpa
from nanochat.model.document_mask import document_mask
from nanochat.model.native_attention import find_native_attention
from nanochat.native.library import compiler

pytestmark = [
    pytest.mark.slow,  # it is compiled first
    pytest.mark.skipif(compiler() is None, reason="no C++ compiler"),
]


@pytest.fixture(scope="module")
def attend(tmp_path_factory: pytest.TempPathFactory) -> AttentionKernel:
    found, why = find_native_attention(tmp_path_factory.mktemp("code"))
    assert found is not None, why
    return found


def drawn(
    seed: int, batch: int, tokens: int, heads: int, key_heads: int, channels: int
) -> list[torch.Tensor]:
    """Queries, keys, values, and the gradient of what is attended."""
    generator = torch.Generator().manual_seed(seed)
    counts = (heads, key_heads, key_heads, heads)
    return [torch.randn(batch, tokens, count, channels, generator=generator) for count in counts]


def run(
    attend: AttentionKernel, tensors: list[torch.Tensor], window: int, dtype: torch.dtype
) -> list[torch.Tensor]:
    """What is attended, and the gradients of queries, keys and values, fp64."""
    *inputs, grad = (x.to(dtype).requires_grad_() for x in tensors)
    y = attend(*inputs, window)
    y.backward(grad)
    return [y.detach().double(), *(x.grad.double() for x in inputs)]


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    tokens=st.integers(1, 160) | st.integers(1, 5).map(lambda n: 32 * n),  # tiles: 32
    key_heads=st.integers(1, 2),
    groups=st.integers(1, 3),
    channels=st.sampled_from([16, 32, 64, 80, 128]),
    window=st.integers(1, 200) | st.just(2**40),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 999),
)
def test_values_and_gradients_are_those_of_pytorch(
    attend: AttentionKernel,
    batch: int,
    tokens: int,
    key_heads: int,
    groups: int,
    channels: int,
    window: int,
    dtype: torch.dtype,
    seed: int,
) -> None:
    tensors = [x.to(dtype) for x in drawn(seed, batch, tokens, groups * key_heads, key_heads, channels)]
    expected = run(sdpa, tensors, window, torch.float64)
    found = run(attend, tensors, window, dtype)
    tolerance = 2e-5 if dtype == torch.float32 else 0.03
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).abs().max() <= tolerance * max(1.0, float(theirs.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("tokens", "channels"), [(32, 32), (20, 16)])
def test_nothing_is_left_over_from_a_larger_call(
    attend: AttentionKernel, dtype: torch.dtype, tokens: int, channels: int
) -> None:
    for larger in (drawn(0, 2, 1024, 2, 2, 64), drawn(0, 2, 252, 2, 1, 80)):
        run(attend, [torch.full_like(x, torch.nan) for x in larger], 300, dtype)
    tensors = [x.to(dtype) for x in drawn(1, 2, tokens, 4, 2, channels)]
    expected = run(sdpa, tensors, 7, torch.float64)
    for ours, theirs in zip(run(attend, tensors, 7, dtype), expected, strict=True):
        assert (ours - theirs).abs().max() <= 0.03 * max(1.0, float(theirs.abs().max()))


def test_a_row_does_not_depend_on_the_batch_or_the_number_of_threads(attend: AttentionKernel) -> None:
    tensors, before = drawn(0, 3, 64, 4, 2, 32), torch.get_num_threads()
    together = run(attend, tensors, 20, torch.bfloat16)
    try:
        torch.set_num_threads(3)
        alone = run(attend, [x[1:2] for x in tensors], 20, torch.bfloat16)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a[1:2], b) for a, b in zip(together, alone, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_number_of_tokens_is_computed_in_cpp(
    attend: AttentionKernel, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("left to PyTorch")

    monkeypatch.setattr(native_attention, "sdpa", refuse)
    for tokens in (1, 61, 97, 125):
        y, *_ = run(attend, drawn(0, 2, tokens, 2, 1, 64), 50, dtype)
        assert y.size(1) == tokens
        assert y.isfinite().all()


@pytest.mark.parametrize(("tokens", "channels"), [(8, 24), (1028, 16)])
def test_other_shapes_and_documents_are_left_to_pytorch(
    attend: AttentionKernel, tokens: int, channels: int
) -> None:
    q, k, v, _ = drawn(0, 1, tokens, 2, 2, channels)
    assert torch.equal(attend(q, k, v, 5), sdpa(q, k, v, 5))
    starts_BT = torch.arange(8)[None] % 3 == 0
    q, k, v, _ = drawn(0, 1, 8, 2, 2, 16)
    documents = document_mask(starts_BT, 5)
    assert torch.equal(attend(q, k, v, 5, documents), sdpa(q, k, v, 5, documents))
    assert not torch.equal(attend(q, k, v, 5, documents), attend(q, k, v, 5))


@pytest.mark.parametrize("dtype", native_attention._TOLERANCES)
def test_a_library_with_other_results_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setitem(native_attention._TOLERANCES, dtype, 0.0)
    found, why = find_native_attention(tmp_path / "other")
    assert found is None
    assert "differs from PyTorch's" in why
