"""Code for processors with narrower vectors than this one's, and from older compilers, agrees with PyTorch, too."""

import platform
import shutil
from pathlib import Path

import pytest

from nanochat.infer.native_library import NativeLibrary
from nanochat.model.native_attention import find_native_attention
from nanochat.model.native_loss import find_native_loss
from nanochat.model.native_operators import find_native_operators
from nanochat.native.library import compiler

pytestmark = [
    pytest.mark.slow,  # all of it is compiled
    pytest.mark.skipif(compiler() is None, reason="no C++ compiler"),
]


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names processors of x86")
@pytest.mark.parametrize("processor", ["haswell", "x86-64"])  # eight lanes, and four
def test_code_for_other_processors_agrees_with_pytorch(
    processor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapper = tmp_path / "c++"
    wrapper.write_text(f'#!/bin/sh\nexec {compiler()} "$@" -march={processor}\n')  # the last one counts
    wrapper.chmod(0o755)
    monkeypatch.setenv("CXX", str(wrapper))
    assert_all_agree(tmp_path / "code")


@pytest.mark.parametrize("older", ["g++-11", "clang++-14"])  # the oldest that README.md names
def test_code_of_older_compilers_agrees_with_pytorch(
    older: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which(older) is None:
        pytest.skip(f"no {older}")
    monkeypatch.setenv("CXX", older)
    assert_all_agree(tmp_path / "code")


def assert_all_agree(directory: Path) -> None:
    """Compile everything and run its trials."""
    for find in (find_native_attention, find_native_loss, find_native_operators):
        found, why = find(directory)
        assert found is not None, why
    library = NativeLibrary(directory)
    library.wait()
    assert library.get() is not None
