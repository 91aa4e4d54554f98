"""Compiles a C++ file for this processor, with the machine's compiler, into a folder where later processes find it."""

import hashlib
import os
import platform
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from ctypes import CDLL
from pathlib import Path
from typing import TypeVar

from nanochat import hardware

T = TypeVar("T")
USUAL_COMPILER = "clang++" if sys.platform == "darwin" else "g++"
_HEADERS = Path(__file__).parent
OPENMP = ("-fopenmp",)
"""Of what `open_library` opens."""
_FLAGS = ("-std=c++20", "-O3", "-fPIC", "-shared", "-pthread", "-fno-strict-aliasing")
_NATIVE = {"x86_64": "-march=native", "AMD64": "-march=native"}
_REMEMBERED_S = 24 * 3600
_ELF_HEADER_BYTES = 64
_SCRIPT = """
delay=$1 temporary=$2 library=$3 failed=$4
shift 4
if [ "$delay" != 0 ]; then
    # Linux weighs sessions before it weighs their processes, so that `nice` alone yields to nobody.
    { echo 19 > /proc/self/autogroup; } 2> /dev/null
    sleep "$delay"
    set -- nice -n 19 "$@"
fi
if "$@" && chmod 755 "$temporary" && sync "$temporary" && mv "$temporary" "$library"; then
    rm -f "$failed"
else
    rm -f "$temporary"
    touch "$failed"
    exit 1
fi
"""


def compiler() -> str | None:
    """The C++ compiler as a command: CXX, which may be words like `ccache g++`, or the usual one. None if absent."""
    wanted = os.environ.get("CXX", "").strip() or USUAL_COMPILER
    program, *arguments = [wanted] if shutil.which(wanted) else wanted.split()
    path = shutil.which(program)
    return None if path is None else shlex.join([path, *arguments])


def library_path(source: Path, directory: Path, compiler: str, flags: tuple[str, ...] = ()) -> Path:
    """Where the library for this source, compiler, further flags, processor and C library belongs."""
    texts = [source.read_text(), *(header.read_text() for header in sorted(_HEADERS.glob("*.hpp")))]
    system = (platform.machine(), *platform.libc_ver(""), hardware.cpu().model, *_processor_features())
    key = (*texts, compiler, *_versions(compiler), *_FLAGS, *flags, *system)
    return directory / f"{source.stem}-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.so"


def log_path(library: Path) -> Path:
    """What the compiler printed."""
    return library.with_suffix(".log")


def failure(library: Path) -> str | None:
    """Why this library is not compiled again for now: the compiler has failed within a day. None if it has not."""
    marker = _failed_path(library)
    if library.exists() or not _is_recent(marker):
        return None
    return f"the C++ compiler failed: see {log_path(library)}; to try again before tomorrow, delete {marker}"


def is_wanting(library: Path) -> bool:
    """Whether to compile it: it is not there and `failure` is None, or it cannot be loaded and is deleted now.

    It is deleted at most once a day: where another one cannot be loaded either, compiling does not help.
    """
    if not library.exists():
        return failure(library) is None
    if _is_loadable(library):
        return False
    deleted = library.with_suffix(".deleted")
    if _is_recent(deleted) and library.stat().st_mtime >= deleted.stat().st_mtime:
        return False
    deleted.touch()
    library.unlink(missing_ok=True)
    return True


def start_compiling(
    source: Path, library: Path, compiler: str, *, flags: tuple[str, ...] = (), delay_s: float = 0.0
) -> subprocess.Popen[bytes]:
    """Start the compiler, which outlives this process: a short one, too, leaves a library for the next.

    With a delay it yields to other programs.
    """
    library.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(suffix=".tmp", dir=library.parent)  # of its own, also in a container
    os.close(handle)
    native = _NATIVE.get(platform.machine(), "-mcpu=native")
    words = [*shlex.split(compiler), *_FLAGS, native, *flags, f"-I{_HEADERS}", "-o", temporary, str(source)]
    settings = [f"{delay_s:g}", temporary, str(library), str(_failed_path(library))]
    with log_path(library).open("wb") as log:
        return subprocess.Popen(
            ["sh", "-c", _SCRIPT, "sh", *settings, *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def compile_together(sources: Iterable[Path], directory: Path) -> None:
    """Compile those whose library is not there yet, at the same time, for `open_library`."""
    found = compiler()
    if found is not None:
        paths = {source: library_path(source, directory, found, OPENMP) for source in sources}
        wanting = [(source, path) for source, path in paths.items() if is_wanting(path)]
        for process in [start_compiling(*each, found, flags=OPENMP) for each in wanting]:
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
    path = library_path(source, directory, found, OPENMP)
    try:
        compile_together([source], directory)
        if not path.exists():
            return None, f"the C++ compiler failed: see {log_path(path)}"
        bound = bind(CDLL(str(path)))
    except (OSError, AttributeError) as error:  # not a library, or not this one
        return None, f"{path} cannot be used ({error})"
    return (bound, "compiled C++") if agrees(bound) else (None, f"{path} differs from PyTorch's results")


def _failed_path(library: Path) -> Path:
    """Is there if the compiler has failed."""
    return library.with_suffix(".failed")


def _is_recent(marker: Path) -> bool:
    return marker.exists() and time.time() - marker.stat().st_mtime < _REMEMBERED_S


def _is_loadable(library: Path) -> bool:
    with library.open("rb") as file:
        header = file.read(_ELF_HEADER_BYTES)
    if header.startswith(b"\x7fELF") and len(header) == _ELF_HEADER_BYTES:
        # It ends with the table of its sections. Loading one that is cut short kills the process.
        (start,), (size, count) = struct.unpack_from("=Q", header, 40), struct.unpack_from("=HH", header, 58)
        if library.stat().st_size < start + size * count:
            return False
    try:
        CDLL(str(library))
    except OSError:
        return False
    return True


def _versions(compiler: str) -> list[int]:
    """What an upgrade changes: times and sizes of the programs in a command."""
    programs = [Path(path) for word in shlex.split(compiler) if (path := shutil.which(word))]
    return [number for path in programs for number in (path.stat().st_mtime_ns, path.stat().st_size)]


def _processor_features() -> tuple[str, ...]:
    """What code compiled for this processor may use, where the system says so."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ()
    return tuple(sorted({line for line in lines if line.startswith(("flags", "Features"))}))
