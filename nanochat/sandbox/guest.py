"""Runs inside the sandboxed interpreter: installs an audit hook, then runs the program as `__main__`.

    python -I -S guest.py PROGRAM      (in the program's work folder; started by jail.py)

The hook, which Python code cannot remove, refuses sockets, new processes, signals to other processes, native code
through ctypes, and changes to files outside the work folder.
"""

import builtins
import os
import sys
import types
from collections.abc import Callable
from typing import Any

_REFUSED = (
    *("socket.", "ctypes.", "subprocess.", "pty.", "syslog."),
    *("os.fork", "os.exec", "os.spawn", "os.posix_spawn", "os.system", "os.kill"),
)
_CHANGES = (
    *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate"),
    *("os.chmod", "os.chown", "os.utime", "os.setxattr", "os.removexattr", "shutil.rmtree"),
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def audit_hook(work: str) -> Callable[[str, tuple[Any, ...]], None]:
    """A hook for `sys.addaudithook`. It raises PermissionError for what is refused; files may change below `work`."""
    inside = os.path.join(os.path.realpath(work), "")

    def outside(path: object) -> bool:
        if not isinstance(path, str | bytes):
            return False  # a file descriptor; opening it was audited
        name = os.fsdecode(path)
        return name != os.devnull and not os.path.join(os.path.realpath(name), "").startswith(inside)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            refused = bool(flags & _WRITING) and outside(path)
        elif event.startswith(_CHANGES):
            refused = any(map(outside, arguments[:2]))
        else:
            refused = event.startswith(_REFUSED)
        if refused:
            raise PermissionError(f"not allowed in the sandbox: {event}")

    return hook


def main() -> None:
    """Run the program. An uncaught error ends it with a traceback that starts in the program's own code."""
    program = sys.argv[1]
    with open(program, encoding="utf-8") as file:
        source = file.read()
    module = types.ModuleType("__main__")
    module.__file__ = program
    sys.modules["__main__"] = module
    sys.argv = [program]
    sys.path.pop(0)  # the folder of this file
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]  # as `site` would, which -S leaves out
    sys.addaudithook(audit_hook(os.getcwd()))
    try:
        exec(compile(source, program, "exec"), module.__dict__)
    except Exception as error:
        trace = error.__traceback__ and error.__traceback__.tb_next
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        sys.exit(1)


if __name__ == "__main__":
    main()
