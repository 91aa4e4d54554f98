"""What holds a sandboxed program: every restriction by name, and the record of those that were not obtained."""

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
    "unprivileged user": ("own root",),  # which shows Python to it, even if that is in a folder of root's
    **{f"limit: {name}": () for name in LIMITS.values()},
    "limit: processes": ("user namespace",),  # without one, every process of the user counts
    "limit: memory of all processes": ("private /proc",),
    **{f"filter: {group}": () for group in GROUPS},
}
"""Every restriction, in the order in which they are put on, and those without which it cannot be."""


class Attempts:
    """Tries restrictions one after the other and remembers why some were not obtained."""

    def __init__(self, left_out: Collection[str]) -> None:
        """`left_out` are restrictions not to be tried."""
        self._left_out = left_out
        self.missing: dict[str, str] = {}

    def attempt(self, name: str, action: Callable[[], None]) -> None:
        """Put one restriction on, unless one that it needs is missing."""
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
