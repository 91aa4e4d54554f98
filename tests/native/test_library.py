"""Which compiler compiles, how it is called, and when it is called again."""

import os
import shlex
from ctypes import CDLL
from pathlib import Path

import pytest

from nanochat.infer.native_library import NativeLibrary
from nanochat.native.library import USUAL_COMPILER, compile_together, compiler, open_library, start_compiling

needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")


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


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "one.cpp"
    path.write_text('extern "C" int one() { return 1; }\n')
    return path


def one(source: Path, directory: Path) -> tuple[int | None, str]:
    """What the library's function returns."""
    return open_library(source, directory, lambda library: int(library.one()), lambda found: found == 1)


def counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """A compiler that also leaves a line for each call in this file; the script is the rest of it."""
    calls = tmp_path / "calls"
    monkeypatch.setenv("CXX", str(program(tmp_path / "c++", f"echo >> {shlex.quote(str(calls))}\n{script}")))
    return calls


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


@needs_compiler
@pytest.mark.parametrize("left", [0, 10, 4096, 12000])
def test_a_damaged_library_is_compiled_again(
    left: int, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counting(tmp_path, monkeypatch, f'exec {compiler()} "$@"')
    compile_together([source], tmp_path / "code")
    (path,) = (tmp_path / "code").glob("*.so")
    assert path.stat().st_size > left
    os.truncate(path, left)
    assert one(source, tmp_path / "code") == (1, "compiled C++")
    assert lines(calls) == 2


def test_what_cannot_be_loaded_either_is_not_compiled_for_ever(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counting(tmp_path, monkeypatch, "while [ $1 != -o ]; do shift; done; echo no library > $2")
    for compiled in (1, 2, 2):
        found, why = one(source, tmp_path / "code")
        assert found is None
        assert "cannot be used" in why
        assert lines(calls) == compiled


def test_a_failing_compiler_is_tried_again_the_next_day_or_after_an_upgrade(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = counting(tmp_path, monkeypatch, "exit 1")
    for compiled in (1, 1):
        found, why = one(source, tmp_path / "code")
        assert found is None
        assert "the C++ compiler failed" in why
        assert lines(calls) == compiled
    for compiled in (2, 2):  # each as another process; only the first says so
        library = NativeLibrary(tmp_path / "code")
        library.wait()
        assert library.get() is None
        assert lines(calls) == compiled
    assert capsys.readouterr().err.count("the compiler failed") == 1
    for failed in (tmp_path / "code").glob("*.failed"):
        os.utime(failed, (failed.stat().st_mtime - 25 * 3600,) * 2)
    one(source, tmp_path / "code")
    assert lines(calls) == 3
    os.utime(tmp_path / "c++", (0, 0))
    one(source, tmp_path / "code")
    assert lines(calls) == 4


@needs_compiler
def test_a_success_forgets_failures(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "one.so"
    found = str(compiler())
    assert start_compiling(tmp_path / "absent.cpp", path, found).wait() != 0
    assert path.with_suffix(".failed").exists()
    assert start_compiling(source, path, found, delay_s=0.01).wait() == 0
    assert not path.with_suffix(".failed").exists()
    assert CDLL(str(path)).one() == 1
