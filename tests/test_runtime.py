"""The compute dtype of a CPU follows from its units and a trial, and can be chosen by hand."""

from dataclasses import replace

import pytest
import torch

from nanochat import hardware, runtime
from nanochat.runtime import choose_dtype, open_runtime


def with_units(monkeypatch: pytest.MonkeyPatch, *units: str, vendor: str = "AuthenticAMD") -> None:
    here = replace(hardware.cpu(), vendor=vendor, vector_units=("avx2", *units))
    monkeypatch.setattr(hardware, "cpu", lambda: here)


@pytest.mark.parametrize("unit", hardware.BF16_UNITS)
def test_bf16_where_its_units_are_and_fp32_elsewhere(monkeypatch: pytest.MonkeyPatch, unit: str) -> None:
    with_units(monkeypatch, unit)
    dtype, why = choose_dtype("cpu")
    assert dtype == torch.bfloat16
    assert unit in why
    with_units(monkeypatch)
    assert choose_dtype("cpu")[0] == torch.float32


def test_intels_vectors_of_bf16_are_not_worth_it_without_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    with_units(monkeypatch, "avx512_bf16", vendor="GenuineIntel")
    dtype, why = choose_dtype("cpu")
    assert dtype == torch.float32
    assert "no AMX" in why
    with_units(monkeypatch, "avx512_bf16", "amx_bf16", vendor="GenuineIntel")
    dtype, why = choose_dtype("cpu")
    assert dtype == torch.bfloat16
    assert "amx_bf16" in why


def test_units_whose_products_are_wrong_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with_units(monkeypatch, "avx512_bf16")
    monkeypatch.setattr(torch, "equal", lambda a, b: False)
    dtype, why = choose_dtype("cpu")
    assert dtype == torch.float32
    assert "failed a trial" in why


def test_a_request_is_followed_and_a_wrong_one_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with_units(monkeypatch)
    assert choose_dtype("cpu", "bf16") == (torch.bfloat16, "requested")
    with pytest.raises(ValueError, match="choose auto, fp32, bf16"):
        choose_dtype("cpu", "fp8")


def test_names_of_dtypes() -> None:
    with open_runtime("cpu", "fp32") as here:
        assert here.dtype == "fp32"
        other = here.with_dtype("bf16", "because")
    assert (other.dtype, other.compute_dtype, other.dtype_reason) == ("bf16", torch.bfloat16, "because")
    assert set(runtime.DTYPES) == {"fp32", "bf16"}
