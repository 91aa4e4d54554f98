"""A sandboxed program's files: Python and its libraries, two devices, a small private folder."""

import os
import sys
from typing import NamedTuple

from nanochat.sandbox import linux

WORK_FOLDER = "/tmp"
GUEST = "/guest.py"
_WORK_BYTES, _WORK_FILES = 16 << 20, 4096
_DEVICES = (
    "/dev/null",
    "/dev/urandom",
)  # not zero: mapped as shared, it is memory that counts for no process
_LIBRARIES = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/etc/ld.so.cache",
    "/usr/share/zoneinfo",
    "/nix/store",
)
_HOST = "/host"  # the old root, until it is detached


class FileView(NamedTuple):
    """Host paths to show under the same name, the path of guest.py, shown as `GUEST`, and the owner (user and group)
    of the work folder.

    The methods are called in this order, by a process with all capabilities in its mount namespace.
    """

    paths: tuple[str, ...]
    guest: str
    owner: int

    @classmethod
    def for_this_python(cls, python: str, guest: str, owner: int) -> "FileView":
        """The files that `python`, an interpreter's real path, needs to run guest.py with the standard library."""
        library = os.path.dirname(os.path.realpath(os.path.dirname(os.__file__)))  # includes libpython
        extensions = [os.path.realpath(path) for path in sys.path if path.endswith("lib-dynload")]
        paths: list[str] = []
        for path in sorted({python, library, *extensions, *_LIBRARIES}, key=len):
            if os.path.exists(path) and not any(path.startswith(f"{shown}/") for shown in paths):
                paths.append(path)
        return cls(tuple(paths), guest, owner)

    def enter(self) -> None:
        """Change to a new root: these paths, two devices, and a work folder in memory that vanishes with the namespace.

        The host's files are still at `_HOST`.
        """
        linux.mount("none", "/", flags=linux.RECURSIVE | linux.PRIVATE)
        linux.mount("tmpfs", "/tmp", "tmpfs", linux.NOSUID | linux.NODEV, "size=1m,mode=755")
        os.chdir("/tmp")
        os.mkdir(f".{_HOST}")
        linux.pivot_root(".", f".{_HOST}")
        os.chdir("/")
        for path in (*self.paths, *_DEVICES):
            _show(path, path)
        _show(self.guest, GUEST)
        os.mkdir("/proc")
        os.mkdir(WORK_FOLDER)
        options = f"mode=700,uid={self.owner},gid={self.owner}"
        linux.mount("tmpfs", WORK_FOLDER, "tmpfs", linux.NOSUID | linux.NODEV, options)
        os.symlink(WORK_FOLDER, "/dev/shm")

    def mount_proc(self) -> None:
        """Mount a /proc with only the namespace's processes; the kernel requires another visible /proc."""
        flags = linux.NOSUID | linux.NODEV | linux.NOEXEC
        linux.mount("proc", "/proc", "proc", flags, "hidepid=2,subset=pid")

    def bound_work_folder(self) -> None:
        """Limit the size of the work folder, whose memory counts for no process."""
        flags = linux.NOSUID | linux.NODEV | linux.REMOUNT
        linux.mount("tmpfs", WORK_FOLDER, "tmpfs", flags, f"size={_WORK_BYTES},nr_inodes={_WORK_FILES}")

    def hide_host(self) -> None:
        """Detach the old root."""
        linux.detach(_HOST)
        os.rmdir(_HOST)

    def make_read_only(self) -> None:
        """Make everything but the work folder read-only."""
        attributes = linux.ATTRIBUTE_READ_ONLY | linux.ATTRIBUTE_NOSUID
        for path in ("/", *_DEVICES):
            linux.set_mount_attributes(path, attributes, recursive=False)
        for path in (*self.paths, GUEST):
            if not os.path.islink(path):
                linux.set_mount_attributes(path, attributes | linux.ATTRIBUTE_NODEV, recursive=True)


def _show(source: str, target: str) -> None:
    """Mount a host path; a symbolic link (as /lib often is) is copied."""
    origin = _HOST + source
    if os.path.islink(origin):
        os.symlink(os.readlink(origin), target)
        return
    if os.path.isdir(origin):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
    linux.mount(origin, target, flags=linux.BIND | linux.RECURSIVE)
