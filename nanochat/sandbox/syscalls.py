"""The system call filter: a table of the calls that a sandboxed program may not make, and its seccomp program.

A refused call fails with EPERM, as if the user lacked permission; the process is not killed. Calls that need a
capability anyway (loading modules, setting the clock) are not listed, as the program has none.
"""

import errno
import os
import struct
from collections.abc import Collection
from typing import NamedTuple


class Architecture(NamedTuple):
    """`audit` is its number in linux/audit.h, `column` its column in `CALLS`."""

    audit: int
    column: int


ARCHITECTURES = {"x86_64": Architecture(0xC000_003E, 0), "aarch64": Architecture(0xC000_00B7, 1)}

_ABSENT = -1
CALLS = {
    "add_key": (248, 217),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clone": (56, 220),
    "clone3": (435, 435),
    "fcntl": (72, 25),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "kcmp": (312, 272),
    "keyctl": (250, 219),
    "kill": (62, 129),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "mknod": (133, _ABSENT),
    "mknodat": (259, 33),
    "mmap": (9, 222),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "msgget": (68, 186),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "pivot_root": (155, 41),
    "prlimit64": (302, 261),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "request_key": (249, 218),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "semget": (64, 190),
    "setns": (308, 268),
    "setpriority": (141, 140),
    "shmget": (29, 194),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "tgkill": (234, 131),
    "tkill": (200, 130),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
"""The number of each call on x86_64 and aarch64 (asm/unistd_64.h, asm-generic/unistd.h)."""


class Argument(NamedTuple):
    """A condition on the low 32 bits of an argument: `value & mask == wanted`."""

    position: int
    wanted: int
    mask: int = 0xFFFF_FFFF


class CallRule(NamedTuple):
    """A call that fails with `error`: always, or only if, or unless, an argument meets a condition."""

    group: str
    call: str
    only_if: Argument | None = None
    unless: Argument | None = None
    error: int = errno.EPERM


_AF_UNIX, _SOCK_STREAM, _SOCK_TYPE_MASK = 1, 1, 0xF
_F_SETOWN, _F_SETOWN_EX = 8, 15
_PRIO_PROCESS = 0
_SHARED_ANONYMOUS = 0x01 | 0x20  # MAP_SHARED | MAP_ANONYMOUS
_CLONE_NAMESPACES = 0x7E02_0000


def rules(pid: int) -> tuple[CallRule, ...]:
    """Every rule for a program with process id `pid`, the only process it may signal."""
    own, itself = Argument(0, pid), Argument(0, 0)
    return (
        # An unnamed pair is all that asyncio needs, and a connected stream reaches nobody else.
        CallRule("sockets", "socket"),
        CallRule("sockets", "socketpair", unless=Argument(0, _AF_UNIX)),
        CallRule("sockets", "socketpair", unless=Argument(1, _SOCK_STREAM, _SOCK_TYPE_MASK)),
        CallRule("signals", "kill", unless=own),
        CallRule("signals", "tgkill", unless=own),
        CallRule("signals", "tkill"),
        CallRule("signals", "rt_sigqueueinfo"),
        CallRule("signals", "rt_tgsigqueueinfo"),
        CallRule("signals", "pidfd_send_signal"),
        CallRule("signals", "fcntl", only_if=Argument(1, _F_SETOWN)),
        CallRule("signals", "fcntl", only_if=Argument(1, _F_SETOWN_EX)),
        # Else it could starve or limit the supervisor, which has the same user unless the caller is root.
        CallRule("scheduling", "sched_setaffinity", unless=itself),
        CallRule("scheduling", "sched_setattr", unless=itself),
        CallRule("scheduling", "sched_setparam", unless=itself),
        CallRule("scheduling", "sched_setscheduler", unless=itself),
        CallRule("scheduling", "prlimit64", unless=itself),
        CallRule("scheduling", "setpriority", unless=Argument(0, _PRIO_PROCESS)),
        CallRule("scheduling", "setpriority", unless=Argument(1, 0)),
        CallRule("debugging", "ptrace"),
        CallRule("debugging", "process_vm_readv"),
        CallRule("debugging", "process_vm_writev"),
        CallRule("debugging", "process_madvise"),
        CallRule("debugging", "pidfd_getfd"),
        CallRule("debugging", "kcmp"),
        CallRule("mounts", "mount"),
        CallRule("mounts", "umount2"),
        CallRule("mounts", "mount_setattr"),
        CallRule("mounts", "open_tree"),
        CallRule("mounts", "chroot"),
        CallRule("new namespaces", "unshare"),
        CallRule("new namespaces", "setns"),
        CallRule("new namespaces", "clone", unless=Argument(0, 0, _CLONE_NAMESPACES)),
        # Its flags are in memory, which a filter cannot read; the C library falls back to clone.
        CallRule("new namespaces", "clone3", error=errno.ENOSYS),
        CallRule("keys", "add_key"),
        CallRule("keys", "request_key"),
        CallRule("keys", "keyctl"),
        CallRule("kernel interfaces", "bpf"),
        CallRule("kernel interfaces", "perf_event_open"),
        CallRule("kernel interfaces", "userfaultfd"),
        CallRule("kernel interfaces", "io_uring_setup"),
        CallRule("kernel interfaces", "io_uring_enter"),
        CallRule("kernel interfaces", "io_uring_register"),
        CallRule("nodes", "mknod"),
        CallRule("nodes", "mknodat"),
        # Memory outside every process's resident set, which the supervisor would not count.
        CallRule("hidden memory", "memfd_create"),
        CallRule("hidden memory", "memfd_secret"),
        CallRule("hidden memory", "shmget"),
        CallRule("hidden memory", "msgget"),
        CallRule("hidden memory", "semget"),
        CallRule("hidden memory", "mmap", only_if=Argument(3, _SHARED_ANONYMOUS, _SHARED_ANONYMOUS)),
    )


GROUPS = tuple(dict.fromkeys(rule.group for rule in rules(0)))

# struct seccomp_data: int nr; u32 arch; u64 instruction_pointer; u64 args[6]. Little-endian on both machines.
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_LOAD, _AND, _JUMP_EQUAL, _JUMP_AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_ALLOW, _FAIL, _KILL_PROCESS = 0x7FFF_0000, 0x0005_0000, 0x8000_0000
_X32_CALLS = 0x4000_0000  # the second numbering of x86_64


def filter_program(pid: int, without: Collection[str] = ()) -> bytes:
    """The seccomp program for this machine, without the groups of rules in `without`.

    Raises OSError for a processor with unknown call numbers.
    """
    machine = os.uname().machine
    if machine not in ARCHITECTURES:
        raise OSError(f"no filter for {machine}; there is one for {', '.join(ARCHITECTURES)}")
    return assemble(ARCHITECTURES[machine], [rule for rule in rules(pid) if rule.group not in without])


def assemble(architecture: Architecture, chosen: Collection[CallRule]) -> bytes:
    """`chosen` as instructions of classic BPF. Calls by another architecture's convention kill the process."""
    code = [
        _instruction(_LOAD, _ARCHITECTURE),
        _instruction(_JUMP_EQUAL, architecture.audit, 1, 0),
        _instruction(_RETURN, _KILL_PROCESS),
        _instruction(_LOAD, _NUMBER),
        _instruction(_JUMP_AT_LEAST, _X32_CALLS, 0, 1),
        _instruction(_RETURN, _FAIL | errno.EPERM),
    ]
    for rule in chosen:
        number = CALLS[rule.call][architecture.column]
        if number != _ABSENT:
            body = _body(rule)
            code += [_instruction(_JUMP_EQUAL, number, 0, len(body)), *body]
    return b"".join([*code, _instruction(_RETURN, _ALLOW)])


def _body(rule: CallRule) -> list[bytes]:
    """Instructions for this rule; a call that passes falls through with its number loaded again."""
    fail = _instruction(_RETURN, _FAIL | rule.error)
    argument = rule.only_if or rule.unless
    if argument is None:
        return [fail]
    skip = (0, 1) if rule.only_if else (1, 0)
    return [
        _instruction(_LOAD, _ARGUMENTS + 8 * argument.position),
        _instruction(_AND, argument.mask),
        _instruction(_JUMP_EQUAL, argument.wanted, *skip),
        fail,
        _instruction(_LOAD, _NUMBER),
    ]


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """`struct sock_filter`."""
    return struct.pack("<HBBI", code, if_true, if_false, value)
