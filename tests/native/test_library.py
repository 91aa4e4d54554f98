"""Which compiler compiles, and how it is called."""

from pathlib import Path

import pytest

from nanochat.native.library import USUAL_COMPILER, compiler, start_compiling


def program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_cxx_may_be_a_launcher_and_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my tools").mkdir()
    told = tmp_path / "told"
    fake = program(tmp_path / "my tools" / "c++", f'echo "$@" > "{told}"')
    launcher = program(tmp_path / "launcher", f'exec "{tmp_path}/my tools/$@"')
    monkeypatch.setenv("CXX", f"{launcher} c++ -g")
    found = compiler()
    assert found is not None
    library = tmp_path / "built" / "a.so"
    assert start_compiling(tmp_path / "a.cpp", library, found).wait() == 0
    assert library.exists()
    assert told.read_text().startswith("-g ")
    monkeypatch.setenv("CXX", str(fake))  # one path, with a blank
    found = compiler()
    assert found is not None
    assert start_compiling(tmp_path / "a.cpp", library, found).wait() == 0
    assert not told.read_text().startswith("-g ")


@pytest.mark.parametrize("wanted", ["no-such-compiler", "no-such-launcher g++"])
def test_a_compiler_that_is_not_there_is_none(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", wanted)
    assert compiler() is None


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_cxx_is_the_usual_compiler(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", empty)
    found = compiler()
    monkeypatch.setenv("CXX", USUAL_COMPILER)
    assert found == compiler()
