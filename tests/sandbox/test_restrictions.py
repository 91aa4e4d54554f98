"""Every single restriction holds: a program that it stops succeeds as soon as it alone is taken out.

A program that prints DONE has done what it must not.
"""

import os
from pathlib import Path

import pytest

from nanochat.sandbox.isolation import NEEDS
from nanochat.sandbox.python import run_python
from nanochat.sandbox.syscalls import ARCHITECTURES, CALLS, rules
from tests.sandbox.conftest import Host

pytestmark = pytest.mark.slow

_SYSCALL = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(number, *map(ctypes.c_long, arguments))
    return result if result >= 0 else -ctypes.get_errno()
"""
_READ_SECRET = "if open('FOLDER/secret').read(): print('DONE')"
_DAEMON = """
import os, sys
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        null = os.open(os.devnull, os.O_RDWR)
        for stream in range(3): os.dup2(null, stream)
        os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(60)', 'FOLDER'])
    os._exit(0)
os.wait()
import time; time.sleep(0.3)
"""
_HOGS = """
import os, time
for _ in range(4):
    if os.fork() == 0:
        hog = b'x' * (60 << 20)
        time.sleep(5)
        os._exit(0)
time.sleep(1)
print('DONE')
"""

PROGRAMS = {
    "user namespace": _READ_SECRET,
    "pid namespace": _DAEMON,
    "network namespace": "if f':{TCP_PORT:04X} ' in open('/proc/self/net/tcp').read(): print('DONE')",
    "mount namespace": _READ_SECRET,
    "ipc namespace": "import ctypes, os\nif ctypes.CDLL(None).mq_open(b'QUEUE', os.O_RDWR) >= 0: print('DONE')",
    "uts namespace": "import os\nif os.uname().nodename == 'HOST_NAME': print('DONE')",
    "own root": _READ_SECRET,
    "private /proc": _HOGS,
    "bounded work folder": "for i in range(4): open(str(i), 'wb').write(bytes(8 << 20))\nprint('DONE')",
    "host files out of sight": "if open('/hostFOLDER/secret').read(): print('DONE')",
    "read-only files": "open('/guest.py', 'a').write('# changed')\nprint('DONE')",
    "unprivileged user": "import os\nos.setgroups([])\nos.chown('.', 0, 0)\nprint('DONE')",
    "limit: memory of a process": "import mmap\nmmap.mmap(-1, 1 << 30, flags=mmap.MAP_PRIVATE)\nprint('DONE')",
    "limit: size of a file": "import os\nopen('f', 'w').close()\nos.truncate('f', 1 << 30)\nprint('DONE')",
    "limit: open files": "import os\nfor _ in range(70): os.dup(0)\nprint('DONE')",
    "limit: processes": (
        "import threading\nthreading.stack_size(1 << 16)\nstay = threading.Event()\n"
        "threads = [threading.Thread(target=stay.wait, daemon=True) for _ in range(70)]\n"
        "for thread in threads: thread.start()\nprint('DONE')"
    ),
    "limit: core dumps": "import resource\nif resource.getrlimit(resource.RLIMIT_CORE)[1]: print('DONE')",
    "limit: memory of all processes": _HOGS,
    "filter: sockets": "import socket\nsocket.socket(socket.AF_UNIX)\nprint('DONE')",
    "filter: signals": (
        "import os, time\nchild = os.fork()\nif child == 0: time.sleep(2); os._exit(0)\n"
        "os.kill(child, 9)\nprint('DONE')"
    ),
    "filter: scheduling": (
        "import os, time\nchild = os.fork()\nif child == 0: time.sleep(2); os._exit(0)\n"
        "os.setpriority(os.PRIO_PROCESS, child, 5)\nprint('DONE')"
    ),
    "filter: debugging": _SYSCALL + "if call({ptrace}, 0) == 0: print('DONE')",
    "filter: mounts": _SYSCALL + "if call({mount}, 1, 1, 1, 0, 0) == -errno.EFAULT: print('DONE')",
    "filter: new namespaces": _SYSCALL + "if call({unshare}, 0x10000000) == 0: print('DONE')",
    "filter: keys": _SYSCALL + "if call({keyctl}, 0, -3, 1) > 0: print('DONE')",
    "filter: kernel interfaces": _SYSCALL + "if call({bpf}, 0, 0, 1 << 20) == -errno.E2BIG: print('DONE')",
    "filter: nodes": "import os\nos.mkfifo('fifo')\nprint('DONE')",
    "filter: hidden memory": "import os\nos.ftruncate(os.memfd_create('m'), 1 << 20)\nprint('DONE')",
}


def _numbers() -> dict[str, int]:
    column = ARCHITECTURES[os.uname().machine].column
    return {name: numbers[column] for name, numbers in CALLS.items()}


def _done(host: Host, name: str, program: str, left_out: tuple[str, ...]) -> bool:
    """Whether the program did what the restriction forbids."""
    for call, number in _numbers().items():
        program = program.replace(f"{{{call}}}", str(number))
    program = program.replace("{TCP_PORT:04X}", f"{host.tcp_port:04X}")
    result = run_python(host.fill(program), memory_bytes=160 << 20, unsafe=bool(left_out), without=left_out)
    assert [restriction.name for restriction in result.isolation.missing][: len(left_out)] == list(left_out)
    survivors = host.survivors()
    for survivor in survivors:
        survivor.kill()
    return "DONE" in result.stdout or bool(survivors)


def test_every_restriction_has_its_program() -> None:
    assert list(PROGRAMS) == list(NEEDS)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_restriction_alone_stops_its_program(host: Host, writable_package: Path, name: str) -> None:
    if name == "unprivileged user" and os.geteuid() != 0:
        pytest.skip("only a root user's programs run as another user")
    assert not _done(host, name, PROGRAMS[name], ())
    assert _done(host, name, PROGRAMS[name], (name,))


ARGUMENTS: dict[str, tuple[tuple[int, ...], ...]] = {
    "add_key": ((1, 1, 1, 1, 0),),
    "bpf": ((0, 0, 1 << 20),),
    "chroot": ((1,),),
    "clone": ((0x1000_0200, 0, 0, 0, 0),),  # a user namespace and a shared file system state: EINVAL
    "clone3": ((1, 1 << 20),),
    "fcntl": ((-1, 8, 1), (-1, 15, 1)),
    "io_uring_enter": ((-1, 0, 0, 0),),
    "io_uring_register": ((-1, 0, 0, 0),),
    "io_uring_setup": ((1, 1),),
    "kcmp": ((99_999, 99_999, 0, 0, 0),),
    "keyctl": ((-1,),),
    "kill": ((99_999, 0),),
    "memfd_create": ((1, 0),),
    "memfd_secret": ((-1,),),
    "mknod": ((1, 0o010666, 0),),
    "mknodat": ((-100, 1, 0o010666, 0),),
    "mmap": ((0, 4096, 3, 0x21, -1, 0),),
    "mount": ((1, 1, 1, 0, 0),),
    "mount_setattr": ((-1, 1, -1, 1, 1),),
    "msgget": ((0, 0o666),),
    "open_tree": ((-1, 1, 0),),
    "perf_event_open": ((1, 0, -1, -1, 0),),
    "pidfd_getfd": ((-1, 0, 0),),
    "pidfd_send_signal": ((-1, 0, 0, 0),),
    "prlimit64": ((99_999, 7, 0, 0),),
    "process_madvise": ((-1, 1, 1, 4, 0),),
    "process_vm_readv": ((99_999, 0, 0, 0, 0, 0),),
    "process_vm_writev": ((99_999, 0, 0, 0, 0, 0),),
    "ptrace": ((16, 99_999, 0, 0),),
    "request_key": ((1, 1, 1, 0),),
    "rt_sigqueueinfo": ((99_999, 0, 1),),
    "rt_tgsigqueueinfo": ((99_999, 99_999, 0, 1),),
    "sched_setaffinity": ((99_999, 8, 1),),
    "sched_setattr": ((99_999, 1, 0),),
    "sched_setparam": ((99_999, 1),),
    "sched_setscheduler": ((99_999, 0, 1),),
    "semget": ((0, 1, 0o666),),
    "setns": ((-1, 0),),
    "setpriority": ((0, 99_999, 0), (2, 99_999, 0)),
    "shmget": ((0, 4096, 0o666),),
    "socket": ((1, 1, 0), (2, 1, 0), (16, 3, 0), (40, 1, 0)),
    "socketpair": ((2, 1, 0, 1), (1, 2, 0, 1)),
    "tgkill": ((99_999, 99_999, 0),),
    "tkill": ((99_999, 0),),
    "umount2": ((1, -1),),
    "unshare": ((-1,),),
    "userfaultfd": ((-1,),),
}
"""Arguments with which the kernel itself never answers EPERM: 1 is a bad address, 99,999 no process, -1 no file."""


def _answers(left_out: tuple[str, ...] = ()) -> dict[str, str]:
    """What the kernel answers to each call: the name of its error, or "done"."""
    calls = [
        (f"{name}{arguments}", _numbers()[name], arguments)
        for name, cases in ARGUMENTS.items()
        for arguments in cases
        if _numbers()[name] >= 0
    ]
    program = (
        f"{_SYSCALL}\nfor name, number, arguments in {calls!r}:\n"
        "    result = call(number, *arguments)\n"
        "    print(name, errno.errorcode[-result] if result < 0 else 'done', sep='\\t')\n"
    )
    result = run_python(program, unsafe=bool(left_out), without=left_out)
    assert result.ok, result.stderr
    return dict(line.split("\t") for line in result.stdout.splitlines())


def test_every_rule_of_the_filter_refuses() -> None:
    filtered = {rule.call for rule in rules(0)}
    assert filtered == ARGUMENTS.keys()
    refused = _answers()
    assert {name: error for name, error in refused.items() if error != "EPERM"} == {
        "clone3(1, 1048576)": "ENOSYS"
    }
    own = _answers(tuple(name for name in NEEDS if name.startswith("filter")))
    assert own.keys() == refused.keys()
    assert {name for name, error in own.items() if error == refused[name]} == set()


def test_what_the_filter_lets_pass() -> None:
    program = (
        "import asyncio, os, signal, socket, subprocess, sys, threading\n"
        "a, b = socket.socketpair(); a.send(b'x'); assert b.recv(1) == b'x'\n"
        "asyncio.run(asyncio.sleep(0))\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('signal'))\n"
        "os.kill(os.getpid(), signal.SIGUSR1); signal.raise_signal(signal.SIGUSR1)\n"
        "t = threading.Thread(target=print, args=('thread',)); t.start(); t.join()\n"
        "subprocess.run([sys.executable, '-c', 'print(\"process\", flush=True)'], check=True)\n"
        "from multiprocessing import get_context\n"
        "p = get_context('fork').Process(target=print, args=('fork',)); p.start(); p.join(); assert p.exitcode == 0\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "print(sum(ThreadPoolExecutor(2).map(abs, [-1, 2])))\n"
    )
    result = run_python(f"import os, sys\nsys.stdout.reconfigure(line_buffering=True)\n{program}")
    assert result.stdout.split() == ["signal", "signal", "thread", "process", "fork", "3"], result.stderr
