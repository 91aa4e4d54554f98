"""Runs untrusted Python programs and tests their functions, isolated from everything else."""

import json
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from nanochat.errors import EnvironmentFault
from nanochat.sandbox.exchange import run_jail
from nanochat.sandbox.isolation import NEEDS
from nanochat.sandbox.jail import Order

TIMEOUT_S = 5.0
MEMORY_BYTES = 512 << 20
_REMEDY = "see docs/sandbox.md, or run them anyway with --unsafe-sandbox (unsafe=True)"


@dataclass(frozen=True)
class Restriction:
    """One restriction; `missing` says why it could not be applied, "" if it was."""

    name: str
    missing: str


@dataclass(frozen=True)
class Isolation:
    """The restrictions on a program, in the order of `NEEDS`."""

    restrictions: tuple[Restriction, ...]

    @classmethod
    def lacking(cls, missing: dict[str, str]) -> "Isolation":
        """All but these restrictions, each with the reason."""
        return cls(tuple(Restriction(name, missing.get(name, "")) for name in NEEDS))

    @property
    def missing(self) -> tuple[Restriction, ...]:
        """Those that could not be applied."""
        return tuple(restriction for restriction in self.restrictions if restriction.missing)

    @property
    def is_whole(self) -> bool:
        """Whether no restriction is missing."""
        return not self.missing

    def explain(self) -> str:
        """One line: the first missing restriction with its reason, and how many are missing."""
        if self.is_whole:
            return "complete"
        first = self.missing[0]
        return f"no {first.name} ({first.missing}), {len(self.missing)} of {len(NEEDS)} restrictions missing"


@dataclass(frozen=True)
class Execution:
    """How a program ended.

    `ok`: it exited with status 0 and was not stopped. `stopped`: why it was stopped, if it was: it timed out, or its
    processes together used too much memory. Output is cut at `exchange.MAX_OUTPUT_BYTES`.
    """

    ok: bool
    stdout: str
    stderr: str
    stopped: Literal["", "time", "memory"]
    isolation: Isolation


@dataclass(frozen=True)
class Verdict:
    """Whether a function passed its tests, and if not, why."""

    passed: bool
    reason: str


def run_python(
    code: str,
    *,
    timeout_s: float = TIMEOUT_S,
    memory_bytes: int = MEMORY_BYTES,
    unsafe: bool = False,
    without: Collection[str] = (),
) -> Execution:
    """Run `code` as a main program and wait for it. Nothing the program does raises an error here.

    The program sees the standard library, an empty work folder that vanishes afterwards, an empty standard input,
    and an environment without our variables. `isolation.NEEDS` lists its restrictions; `docs/sandbox.md` describes
    their limits.

    Args:
        timeout_s: wall-clock seconds, after which the program and all its processes are killed.
        memory_bytes: the most memory of all its processes together, and address space of each.
        unsafe: run it even if this system cannot provide full isolation.
        without: restrictions to skip, for tests.

    Raises EnvironmentFault if isolation is incomplete and `unsafe` is false.
    """
    order = Order(code, "", "", memory_bytes, unsafe, tuple(without))
    return _execute(order, timeout_s)[0]


def check_function(
    code: str,
    function: str,
    tests: str,
    *,
    timeout_s: float = TIMEOUT_S,
    unsafe: bool = False,
) -> Verdict:
    """Import the program `code` and run `tests`, source code that calls its `function` by name.

    The tests run in a separate process, out of the program's reach (see `nanochat.sandbox.judge`). They pass if they
    finish without an error. Arguments and errors as in `run_python`.
    """
    order = Order(code, function, tests, MEMORY_BYTES, unsafe, ())
    execution, failure = _execute(order, timeout_s)
    if failure is None:
        failure = {
            "time": f"more than {timeout_s:g} s",
            "memory": f"more than {MEMORY_BYTES >> 20} MiB",
            "": "the judge ended without a verdict",
        }[execution.stopped]
    return Verdict(passed=not failure, reason=failure)


def isolation_here() -> Isolation:
    """The isolation available on this machine, found by running a program. Raises EnvironmentFault if that fails."""
    return run_python("", unsafe=True).isolation


def require_isolation() -> None:
    """Raise EnvironmentFault if this machine can run programs only with `unsafe`."""
    run_python("")


def _execute(order: Order, timeout_s: float) -> tuple[Execution, str | None]:
    """The execution, and the judge's reason for a failure ("" for a pass, None without a verdict)."""
    if timeout_s <= 0:
        raise ValueError(f"timeout_s must be positive, not {timeout_s}")
    with tempfile.TemporaryDirectory(prefix="nanochat-", ignore_cleanup_errors=True) as work:
        jail = run_jail(json.dumps(order._replace(work=work)._asdict()).encode(), timeout_s)
    reports = jail.reports
    stderr = jail.stderr.decode("utf-8", "replace")
    if "isolation" not in reports:
        raise EnvironmentFault(f"the sandbox cannot be set up: {stderr.strip() or 'it ended at once'}")
    isolation = Isolation.lacking(reports["isolation"])
    if not (isolation.is_whole or order.unsafe):
        raise EnvironmentFault(f"programs cannot be isolated here: {isolation.explain()}; {_REMEDY}")
    execution = Execution(
        ok=reports.get("exit") == 0,
        stdout=jail.stdout.decode("utf-8", "replace"),
        stderr=stderr,
        stopped="time" if jail.out_of_time else reports.get("stopped", ""),
        isolation=isolation,
    )
    return execution, reports.get("verdict")
