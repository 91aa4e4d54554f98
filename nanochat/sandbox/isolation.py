"""The restrictions on a sandboxed program by name, and a record of those that could not be applied."""

from collections.abc import Callable, Collection

from nanochat.sandbox.syscalls import GROUPS

NAMESPACE_KINDS = ("pid", "network", "mount", "ipc", "uts")
LIMITS = {
    "RLIMIT_AS": "memory of a process",
    "RLIMIT_FSIZE": "size of a file",
    "RLIMIT_NOFILE": "open files",
    "RLIMIT_NPROC": "processes",
    "RLIMIT_CORE": "core dumps",
}

NEEDS: dict[str, tuple[str, ...]] = {
    "user namespace": (),
    **{f"{kind} namespace": ("user namespace",) for kind in NAMESPACE_KINDS},
    "own root": ("mount namespace",),
    "private /proc": ("own root", "pid namespace"),
    "bounded work folder": ("own root",),
    "host files out of sight": ("own root",),
    "read-only files": ("own root",),
    "unprivileged user": ("own root",),  # needs it to reach a Python in a folder of root's
    **{f"limit: {name}": () for name in LIMITS.values()},
    "limit: processes": ("user namespace",),  # without one, all processes of the user count
    "limit: memory of all processes": ("private /proc",),
    **{f"filter: {group}": () for group in GROUPS},
}
"""Every restriction, in the order of their application, and the ones that each depends on."""


class Attempts:
    """Applies restrictions one by one, and records why some failed."""

    def __init__(self, left_out: Collection[str]) -> None:
        """`left_out` are restrictions to skip."""
        self._left_out = left_out
        self.missing: dict[str, str] = {}

    def attempt(self, name: str, action: Callable[[], None]) -> None:
        """Apply one restriction, unless one that it needs is missing."""
        lacking = [need for need in NEEDS[name] if need in self.missing]
        if name in self._left_out:
            self.missing[name] = "left out"
        elif lacking:
            self.missing[name] = f"needs {lacking[0]}"
        else:
            try:
                action()
            except (OSError, ValueError) as error:
                self.missing[name] = str(error)
