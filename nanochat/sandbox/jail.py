"""The processes around a sandboxed program, started by `nanochat.sandbox.python`; standard library only.

There are three, of which the first stays outside:

    warden       makes the namespaces, starts the supervisor, ends it on SIGTERM
    supervisor   process 1 of the new pid namespace: builds the view of the files, watches memory, reaps
    program      the untrusted code; for a verdict there is also a judge (see judge.py)

When the supervisor ends, the kernel kills the rest of its namespace. No signal from within the namespace reaches the
supervisor or the warden. The caller, outside all of them, keeps the time.

It uses named tuples instead of dataclasses, and no pathlib, because importing those would double the start-up time.

The order is read from standard input: its length in ten digits, that many bytes of JSON, then the program's input.
Reports go to a pipe that the program never has, a line of JSON each: `isolation`, sent right before the program
starts, then `exit`, `stopped` or `verdict`.
"""

import json
import os
import resource
import select
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from nanochat.sandbox import judge, linux
from nanochat.sandbox.file_view import GUEST, WORK_FOLDER, FileView
from nanochat.sandbox.isolation import LIMITS, NAMESPACE_KINDS, Attempts
from nanochat.sandbox.syscalls import GROUPS, filter_program

MAX_FILE_BYTES, MAX_OPEN_FILES, MAX_PROCESSES = 16 << 20, 64, 64
_PROGRAM_FILE = "program.py"
_PYTHON_OPTIONS = ("-I", "-S", "-B", "-X", "utf8")
_WATCH_INTERVAL_S = 0.02
_INNER_ID = 1000  # of the program, as it sees itself; not 0, which would keep capabilities
_NOBODY = 65534  # the host's user for programs of a root user


class Order(NamedTuple):
    """What to run and under which limits; `function` and `tests` are empty to run the program alone.

    `work` is the folder to run in if there can be no private one.
    """

    code: str
    function: str
    tests: str
    memory_bytes: int
    unsafe: bool
    left_out: tuple[str, ...]
    work: str = ""


class _Pipes(NamedTuple):
    """File descriptors: reports to the caller; calls and their results between judge and program."""

    report: int
    calls: tuple[int, int]
    results: tuple[int, int]


def main() -> None:
    """The warden. `sys.argv[1]` is the file descriptor for reports."""
    report = int(sys.argv[1])
    os.set_inheritable(report, False)
    order = Order(**json.loads(sys.stdin.buffer.read()))
    attempts = Attempts(order.left_out)
    attempts.attempt("user namespace", _enter_user_namespace)
    for kind in NAMESPACE_KINDS:
        attempts.attempt(f"{kind} namespace", partial(linux.unshare, kind))
    supervisor = os.fork()
    if supervisor == 0:
        _run_and_exit(lambda: _supervise(order, attempts, report))
    signal.signal(signal.SIGTERM, lambda *_: os.kill(supervisor, signal.SIGKILL))
    if sys.platform == "linux":
        linux.die_with_parent(signal.SIGTERM)
    os.waitpid(supervisor, 0)


def _run_and_exit(action: Callable[[], None]) -> None:
    """Run `action` in a newly forked process and always end it."""
    try:
        action()
        os._exit(0)
    except BaseException as error:
        os.write(2, f"sandbox: {type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(1)


def _enter_user_namespace() -> None:
    """Enter a user namespace; for root, a process that stays outside must map its ids."""
    inside, user, group = os.getpid(), os.geteuid(), os.getegid()
    read, write = os.pipe()
    mapper = os.fork()
    if mapper == 0:
        os.close(write)
        try:
            if os.read(read, 1):
                _map_ids(inside, user, group)
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or 1)
    try:
        linux.unshare("user")
        os.write(write, b".")
    finally:
        os.close(read)
        os.close(write)
        _, status = os.waitpid(mapper, 0)
    if code := os.waitstatus_to_exitcode(status):
        raise OSError(code, f"the ids of user {user} cannot be mapped: {os.strerror(code)}")


def _map_ids(process: int, user: int, group: int) -> None:
    """Map root to root for the supervisor and to nobody for the program; map any other user to the program's id."""
    if user == 0:
        _write(f"/proc/{process}/uid_map", f"0 0 1\n{_INNER_ID} {_NOBODY} 1\n")
        _write(f"/proc/{process}/gid_map", f"0 {group} 1\n{_INNER_ID} {_NOBODY} 1\n")
    else:
        _write(f"/proc/{process}/setgroups", "deny")
        _write(f"/proc/{process}/uid_map", f"{_INNER_ID} {user} 1")
        _write(f"/proc/{process}/gid_map", f"{_INNER_ID} {group} 1")


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8", errors="replace") as file:
        file.write(text)


def _supervise(order: Order, attempts: Attempts, report: int) -> None:
    """Process 1: set up the files, then run the program and judge until the judge (else the program) ends."""
    if sys.platform == "linux":
        linux.die_with_parent(signal.SIGKILL)
        linux.hide_from_debuggers()
    if "uts namespace" not in attempts.missing:
        linux.set_host_name("sandbox")
    python, guest = os.path.realpath(sys.executable), os.path.join(os.path.dirname(__file__), "guest.py")
    _build_view(attempts, FileView.for_this_python(python, guest, _INNER_ID))
    if "own root" not in attempts.missing:
        guest = GUEST
    watched = "limit: memory of all processes"
    attempts.attempt(watched, lambda: None)
    pipes = _Pipes(report, os.pipe(), os.pipe())
    awake, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    awaited = program = os.fork()
    if program == 0:
        _run_and_exit(lambda: _become_program(order, attempts, pipes, [python, *_PYTHON_OPTIONS, guest]))
    if order.function:
        awaited = os.fork()
        if awaited == 0:
            _run_and_exit(lambda: _become_judge(order, attempts, pipes))
    for end in (0, *pipes.calls, *pipes.results):
        os.close(end)
    limit = order.memory_bytes if watched not in attempts.missing else sys.maxsize
    _send(report, _wait(awaited, awake, limit))


def _build_view(attempts: Attempts, view: FileView) -> None:
    attempts.attempt("own root", view.enter)
    attempts.attempt("private /proc", view.mount_proc)
    attempts.attempt("bounded work folder", view.bound_work_folder)
    attempts.attempt("host files out of sight", view.hide_host)
    attempts.attempt("read-only files", view.make_read_only)


def _wait(awaited: int, awake: int, memory_bytes: int) -> dict[str, object]:
    """Reap processes until `awaited` ends or all together exceed the memory limit; returns which."""
    while True:
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == awaited:
                return {"exit": os.waitstatus_to_exitcode(ended[1])}
        if memory_bytes < sys.maxsize and _resident_bytes() > memory_bytes:
            return {"stopped": "memory"}
        if select.select([awake], [], [], _WATCH_INTERVAL_S)[0]:
            os.read(awake, 64)


def _resident_bytes() -> int:
    """Resident memory of all other processes in the namespace; shared memory counts once per process."""
    pages = 0
    for name in os.listdir("/proc"):
        if name.isdigit() and name != "1":
            try:
                with open(f"/proc/{name}/statm") as file:
                    pages += int(file.read().split()[1])
            except (OSError, IndexError):
                continue  # the process just ended
    return pages * resource.getpagesize()


def _become_program(order: Order, attempts: Attempts, pipes: _Pipes, command: list[str]) -> None:
    """Confine this process, report the isolation achieved, and execute the program unless refused."""
    _confine(order, attempts)
    _send(pipes.report, {"isolation": attempts.missing})
    if attempts.missing and not order.unsafe:
        os._exit(1)
    work = order.work if "own root" in attempts.missing else WORK_FOLDER
    os.chdir(work)
    _write(_PROGRAM_FILE, order.code)
    command.append(_PROGRAM_FILE)
    if order.function:
        ends = pipes.calls[0], pipes.results[1]
        for end in ends:
            os.set_inheritable(end, True)
        command += [order.function, *map(str, ends)]
    os.execve(command[0], command, {"HOME": work, "TMPDIR": work})


def _become_judge(order: Order, attempts: Attempts, pipes: _Pipes) -> None:
    """Confine this process like the program but out of its reach, and report the tests' verdict."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    os.close(pipes.calls[0])
    os.close(pipes.results[1])
    _confine(order, attempts)
    if sys.platform == "linux":
        linux.hide_from_debuggers()  # again: a change of user undoes it
    _send(
        pipes.report,
        {"verdict": judge.failure(order.function, order.tests, pipes.calls[1], pipes.results[0])},
    )


def _confine(order: Order, attempts: Attempts) -> None:
    """Apply the restrictions that a process sets itself: limits, user, system calls."""
    sizes = {
        "RLIMIT_AS": order.memory_bytes,
        "RLIMIT_FSIZE": MAX_FILE_BYTES,
        "RLIMIT_NOFILE": MAX_OPEN_FILES,
        "RLIMIT_NPROC": MAX_PROCESSES,
        "RLIMIT_CORE": 0,
    }
    for limit, name in LIMITS.items():
        attempts.attempt(f"limit: {name}", partial(_limit, limit, sizes[limit]))
    attempts.attempt("unprivileged user", _become_unprivileged)
    left_out = [group for group in GROUPS if f"filter: {group}" in order.left_out]
    failure = ""
    try:
        linux.forbid_new_privileges()
        linux.install_filter(filter_program(os.getpid(), left_out))
    except OSError as error:
        failure = str(error)
    for group in GROUPS:
        if failure or group in left_out:
            attempts.missing[f"filter: {group}"] = failure or "left out"


def _limit(name: str, value: int) -> None:
    number = getattr(resource, name, None)
    if number is None:
        raise OSError("this system knows no such limit")
    resource.setrlimit(number, (value, value))


def _become_unprivileged() -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(_INNER_ID, _INNER_ID, _INNER_ID)
        os.setresuid(_INNER_ID, _INNER_ID, _INNER_ID)
    linux.drop_capabilities()


def _send(report: int, line: dict[str, object]) -> None:
    os.write(report, json.dumps(line).encode() + b"\n")
