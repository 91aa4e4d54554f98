"""Compiles a C++ file for this processor, with the machine's compiler, into a folder where later processes find it."""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from ctypes import CDLL
from pathlib import Path
from typing import TypeVar

from nanochat import hardware

T = TypeVar("T")
USUAL_COMPILER = "clang++" if sys.platform == "darwin" else "g++"
_HEADERS = Path(__file__).parent
_OPENMP = ("-fopenmp",)
_FLAGS = ("-std=c++20", "-O3", "-fPIC", "-shared", "-pthread", "-fno-strict-aliasing")
_NATIVE = {"x86_64": "-march=native", "AMD64": "-march=native"}


def compiler() -> str | None:
    """The C++ compiler as a command: CXX, which may be words like `ccache g++`, or the usual one. None if absent."""
    wanted = os.environ.get("CXX", "").strip() or USUAL_COMPILER
    program, *arguments = [wanted] if shutil.which(wanted) else wanted.split()
    path = shutil.which(program)
    return None if path is None else shlex.join([path, *arguments])


def library_path(source: Path, directory: Path, compiler: str, flags: tuple[str, ...] = ()) -> Path:
    """Where the library for this source, compiler, further flags and processor belongs."""
    texts = [source.read_text(), *(header.read_text() for header in sorted(_HEADERS.glob("*.hpp")))]
    key = (*texts, compiler, *_FLAGS, *flags, hardware.cpu().model, *_processor_features())
    return directory / f"{source.stem}-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.so"


def log_path(library: Path) -> Path:
    """What the compiler printed."""
    return library.with_suffix(".log")


def start_compiling(
    source: Path, library: Path, compiler: str, *, flags: tuple[str, ...] = (), delay_s: float = 0.0
) -> subprocess.Popen[bytes]:
    """Start the compiler, which outlives this process: a short one, too, leaves a library for the next."""
    library.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(suffix=".tmp", dir=library.parent)  # of its own, also in a container
    os.close(handle)
    native = _NATIVE.get(platform.machine(), "-mcpu=native")
    words = [*shlex.split(compiler), *_FLAGS, native, *flags, f"-I{_HEADERS}", "-o", temporary, str(source)]
    command = shlex.join(["nice", "-n", "19", *words] if delay_s else words)
    # Linux weighs sessions before it weighs their processes, so that `nice` alone yields to nobody.
    quietly = "{ echo 19 > /proc/self/autogroup; } 2> /dev/null; " if delay_s else ""
    quoted = shlex.quote(temporary)
    publish = f"chmod 755 {quoted} && sync {quoted} && mv {quoted} {shlex.quote(str(library))}"
    with log_path(library).open("wb") as log:
        return subprocess.Popen(
            [
                "sh",
                "-c",
                f"{quietly}sleep {delay_s:g} && {command} && {publish} || {{ rm -f {quoted}; exit 1; }}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def compile_together(sources: Iterable[Path], directory: Path) -> None:
    """Compile those whose library is not there yet, at the same time, for `open_library`."""
    found = compiler()
    if found is not None:
        paths = {source: library_path(source, directory, found, _OPENMP) for source in sources}
        missing = [(source, path) for source, path in paths.items() if not path.exists()]
        for process in [start_compiling(*each, found, flags=_OPENMP) for each in missing]:
            process.wait()


def open_library(
    source: Path, directory: Path | None, bind: Callable[[CDLL], T], agrees: Callable[[T], bool]
) -> tuple[T | None, str]:
    """(what `bind` makes of a source's library, if its trial `agrees`, or None; why). Compiles it if it is not there.

    It runs on the threads that PyTorch has.
    """
    found = compiler()
    if directory is None or found is None:
        return None, "there is no C++ compiler"
    path = library_path(source, directory, found, _OPENMP)
    try:
        compile_together([source], directory)
        if not path.exists():
            return None, f"the C++ compiler failed: see {log_path(path)}"
        bound = bind(CDLL(str(path)))
    except (OSError, AttributeError) as error:  # not a library, or not this one
        return None, f"{path} cannot be used ({error})"
    return (bound, "compiled C++") if agrees(bound) else (None, f"{path} differs from PyTorch's results")


def _processor_features() -> tuple[str, ...]:
    """What code compiled for this processor may use, where the system says so."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ()
    return tuple(sorted({line for line in lines if line.startswith(("flags", "Features"))}))
