"""Linux system calls for the sandbox that `os` lacks (in Python 3.11), by ctypes. Each raises OSError."""

import ctypes
import os
import sys

from nanochat.sandbox.syscalls import ARCHITECTURES, CALLS

NAMESPACES = {
    "mount": 0x0002_0000,
    "uts": 0x0400_0000,
    "ipc": 0x0800_0000,
    "user": 0x1000_0000,
    "pid": 0x2000_0000,
    "network": 0x4000_0000,
}
NOSUID, NODEV, NOEXEC, REMOUNT, BIND, RECURSIVE, PRIVATE = 2, 4, 8, 0x20, 0x1000, 0x4000, 1 << 18
ATTRIBUTE_READ_ONLY, ATTRIBUTE_NOSUID, ATTRIBUTE_NODEV = 1, 2, 4

_MNT_DETACH = 2
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x2008_0522


class _FilterProgram(ctypes.Structure):
    """`struct sock_fprog` of linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def unshare(namespace: str) -> None:
    """Move this process (for "pid": its next children) to a new namespace of a kind in `NAMESPACES`."""
    _check(_libc().unshare(NAMESPACES[namespace]))


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2)."""
    _check(_libc().mount(source.encode(), target.encode(), kind.encode(), flags, options.encode() or None))


def set_mount_attributes(path: str, attributes: int, *, recursive: bool) -> None:
    """Add `ATTRIBUTE_*` to the mount at `path`, and if `recursive` to all below it (Linux 5.12)."""
    values = (ctypes.c_uint64 * 4)(attributes)
    flags = _AT_RECURSIVE if recursive else 0
    _call("mount_setattr", _AT_FDCWD, path.encode(), flags, values, ctypes.sizeof(values))


def pivot_root(new: str, old: str) -> None:
    """Make `new` the root directory and mount the old one at `old`, a directory within `new`."""
    _call("pivot_root", new.encode(), old.encode())


def detach(path: str) -> None:
    """Unmount what is at `path`, and all below it."""
    _check(_libc().umount2(path.encode(), _MNT_DETACH))


def set_host_name(name: str) -> None:
    """Name this machine, within its UTS namespace."""
    _check(_libc().sethostname(name.encode(), len(name)))


def die_with_parent(signal_number: int) -> None:
    """Have the kernel send this process a signal when the thread that started it ends."""
    _check(_libc().prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0))


def hide_from_debuggers() -> None:
    """Keep processes without the capability from reading or changing this one's memory, files or environment."""
    _check(_libc().prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))


def drop_capabilities() -> None:
    """Give up every capability."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _check(_libc().capset(header, (ctypes.c_uint32 * 6)()))


def forbid_new_privileges() -> None:
    """Keep executed files from giving this process or its children new privileges."""
    _check(_libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def install_filter(instructions: bytes) -> None:
    """Permanently apply a seccomp filter to this process and its children. Needs `forbid_new_privileges`."""
    buffer = ctypes.create_string_buffer(instructions, len(instructions))
    program = _FilterProgram(len(instructions) // 8, ctypes.addressof(buffer))
    _check(_libc().prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0))


def _call(name: str, *arguments: object) -> None:
    machine = os.uname().machine
    if machine not in ARCHITECTURES:
        raise OSError(f"the numbers of system calls on {machine} are not known here")
    _check(_libc().syscall(CALLS[name][ARCHITECTURES[machine].column], *arguments))


def _libc() -> ctypes.CDLL:
    if sys.platform != "linux":
        raise OSError(f"{os.uname().sysname} has no such restriction")
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
