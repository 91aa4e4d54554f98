"""The supervisor of an untrusted program, run as a script by `nanochat.sandbox.python`; standard library only.

    python -I -S jail.py PROGRAM TIMEOUT_S MEMORY_BYTES namespaces|limits     (in the program's work folder)

On every system the program runs under resource limits and an audit hook in its interpreter (guest.py). If the
kernel allows it (Linux with unprivileged user namespaces), the program also gets its own namespaces: no network
but an unconnected loopback, a read-only file system with a small private tmpfs on the work folder, no view of
other processes, no capabilities. It is process 1 of its namespace, so its children die with it.

Without namespaces (macOS, most containers), limits and hook guard well against accidents and poorly against
malice. In every case a program can read what the user can read.

The supervisor, which the program cannot reach, enforces the timeout. It exits with the program's status, with
128 + signal if a signal ended the program, and dies by SIGALRM at the timeout.
"""

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

FILE_BYTES = 16 << 20
LIMITS = {"RLIMIT_FSIZE": FILE_BYTES, "RLIMIT_NOFILE": 64, "RLIMIT_NPROC": 64, "RLIMIT_CORE": 0}

_CLONE_NEWNS, _CLONE_NEWIPC, _CLONE_NEWUSER = 0x00020000, 0x08000000, 0x10000000
_CLONE_NEWPID, _CLONE_NEWNET = 0x20000000, 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_REC, _MS_PRIVATE = 2, 4, 0x4000, 1 << 18
_MOUNT_ATTR_RDONLY, _AT_FDCWD, _AT_RECURSIVE = 1, -100, 0x8000
_SYS_MOUNT_SETATTR = 442  # on every architecture
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38

# Not 0: as root inside its namespaces the program would keep every capability there.
_INNER_ID = 1000


def main() -> None:
    """Start the program under all available restrictions and supervise it."""
    program, timeout_s, memory_bytes = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    if sys.argv[4] == "namespaces":
        _enter_namespaces()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()  # so that a signal to its process group does not reach the supervisor
            _die_with_parent()
            _limit(int(timeout_s) + 1, memory_bytes)
            guest = str(Path(__file__).with_name("guest.py"))
            os.execv(sys.executable, [sys.executable, "-I", "-S", "-B", "-X", "utf8", guest, program])
        finally:
            os._exit(127)
    _supervise(child, timeout_s)


def _supervise(child: int, timeout_s: float) -> None:
    """Wait for the program, kill it at the timeout, and exit with its status."""
    late = False

    def kill(*_: object) -> None:
        nonlocal late
        late = True
        os.kill(child, signal.SIGKILL)

    signal.signal(signal.SIGALRM, kill)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    _, status = os.waitpid(child, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    if late:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGALRM)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def _limit(cpu_s: int, memory_bytes: int) -> None:
    for name, value in {**LIMITS, "RLIMIT_CPU": cpu_s, "RLIMIT_AS": memory_bytes}.items():
        try:
            resource.setrlimit(getattr(resource, name), (value, value))
        except (AttributeError, ValueError, OSError):
            continue  # the system lacks this limit or enforces a lower one


def _enter_namespaces() -> None:
    """Apply the kernel's restrictions, the most important first, until one is not permitted."""
    if sys.platform != "linux":
        return
    uid, gid = os.getuid(), os.getgid()
    flags = _CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWPID | _CLONE_NEWNS | _CLONE_NEWIPC
    try:
        _checked(_libc().unshare(flags))
        for name, content in (
            ("setgroups", "deny"),
            ("uid_map", f"{_INNER_ID} {uid} 1"),
            ("gid_map", f"{_INNER_ID} {gid} 1"),
        ):
            Path("/proc/self", name).write_text(content)
        _confine_files()
    except OSError:
        return


def _confine_files() -> None:
    """Make everything read-only except a tmpfs on the work folder, which vanishes with the namespace."""
    libc, work = _libc(), os.getcwd()
    _checked(libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None))
    attributes = (ctypes.c_uint64 * 4)(_MOUNT_ATTR_RDONLY)
    size = ctypes.sizeof(attributes)
    _checked(libc.syscall(_SYS_MOUNT_SETATTR, _AT_FDCWD, b"/", _AT_RECURSIVE, attributes, size))
    options = f"size={FILE_BYTES},mode=700,uid={_INNER_ID},gid={_INNER_ID}".encode()
    _checked(libc.mount(b"tmpfs", os.fsencode(work), b"tmpfs", _MS_NOSUID | _MS_NODEV, options))
    os.chdir(work)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        _libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    main()
