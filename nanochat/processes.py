"""The processes of a run: rank and world size, collectives, shared decisions, shared failures.

Three rules keep processes in step. What must not differ between them is decided by process 0 (`decide`) or compared
(`same`). Work that may fail on one of them runs inside `together`: the body must not communicate, and afterwards all
processes learn whether it succeeded. Collectives on tensors come after that, when every process is sure to reach them.

With one process, nothing here communicates.
"""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

import torch
from torch import Tensor

from nanochat.console import say, warn
from nanochat.process_link import Link, Outcome, ProcessFailure, describe
from nanochat.signals import handle_signals

T = TypeVar("T")

_BUCKET_ELEMENTS = 16 * 1024 * 1024


class Abandoned(Exception):  # noqa: N818 - no error
    """Skippable work was abandoned because of a stop request."""


class Processes:
    """This process and the others of its run. Created by `open_processes`; `Processes()` is a single process."""

    def __init__(self, rank: int = 0, world_size: int = 1, link: Link | None = None):
        """Without a link, a process of several can compute its share but not communicate."""
        self.rank, self.world_size = rank, world_size
        self._link = link
        self._agreed: Exception | None = None  # the last failure known to every process
        self._alone = False
        self._skippable = False
        self._stop: str | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is process 0, which decides, saves and prints."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """This process's part of `count` things: consecutive; the parts differ by at most one."""
        return range(count * self.rank // self.world_size, count * (self.rank + 1) // self.world_size)

    # ---- failures

    @contextmanager
    def together(self, what: str) -> Iterator[None]:
        """Run the body, which must not communicate, then learn whether it succeeded on every process.

        If it failed on any, it fails on all: with the original error where it happened, elsewhere with ProcessFailure.
        """
        failure: Exception | None = None
        try:
            self._set_alone(True)
            if self._skippable and self._stop:
                raise Abandoned(self._stop)
            yield
            self._set_alone(False)  # inside the try, so that `interrupt` can only raise in here
        except Exception as error:
            failure = error
        finally:
            self._set_alone(False)
        try:
            self._exchange(Outcome(failure=f"{what}: {describe(failure)}" if failure else None))
        except ProcessFailure as other:
            if failure is None:
                raise
            if other is self._agreed:
                self._agreed = failure
        if failure is not None:
            raise failure

    @contextmanager
    def tolerating(self, what: str, *, skippable: bool = False) -> Iterator[None]:
        """Turn a failure of `together` in the body into one warning, on every process.

        skippable: a stop request (see `interrupt`) abandons the body.
        """
        self._skippable = skippable
        try:
            yield
        except Exception as error:
            if self.world_size > 1 and error is not self._agreed:
                raise  # the others do not know about it
            if isinstance(error, Abandoned):
                say(f"{what} abandoned: {error}")
                return
            here = self.world_size > 1 and not isinstance(error, ProcessFailure)
            where = f" on process {self.rank}" if here else ""
            warn(f"{what} failed{where}, training continues: {describe(error)}")
        finally:
            self._skippable = False

    def interrupt(self, reason: str) -> None:
        """For a signal handler: abandon skippable work, current and future. Other work continues."""
        self._stop = reason
        if self._skippable and self._alone:
            raise Abandoned(reason)

    # ---- decisions

    def decide(self, choose: Callable[[], T]) -> T:
        """What `choose` returns on process 0, on every process. The value must be picklable."""
        return self._exchange(Outcome(choose() if self.is_main else None))[0]

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank."""
        return self._exchange(Outcome(value))

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true on any process."""
        return any(self.gather(flag))

    def same(self, what: str, value: object) -> None:
        """Raise ValueError unless every process has the same value as process 0."""
        first, *others = self.gather(value)
        for rank, other in enumerate(others, start=1):
            if other != first:
                raise ValueError(
                    f"{what} differs between processes: {first} on process 0, {other} on process {rank}; "
                    "give every machine the same files and versions"
                )

    def _exchange(self, mine: Outcome) -> list[Any]:
        """The values of all processes. Raises ProcessFailure, on every process, for the first that failed."""
        if self._link is None:
            assert self.world_size == 1, "these processes are not connected"
            return [mine.value]
        outcomes = self._link.exchange(mine)
        for rank, outcome in enumerate(outcomes):
            if outcome.failure is not None:
                self._agreed = self._link.failure(rank, outcome.failure)
                raise self._agreed
        return [outcome.value for outcome in outcomes]

    def _set_alone(self, alone: bool) -> None:
        self._alone = alone
        if self._link is not None:
            self._link.working_alone = alone

    # ---- tensors

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over processes, in place; returns the tensor."""
        if self._link is not None:
            self._link.sum(tensor)
        return tensor

    @torch.no_grad()
    def sum_each(self, tensors: Sequence[Tensor]) -> None:
        """Sum each tensor over processes, in place. Small ones are sent together."""
        if self._link is None:
            return
        bucket: list[Tensor] = []
        for at, tensor in enumerate(tensors, start=1):
            bucket.append(tensor)
            if at == len(tensors) or sum(member.numel() for member in bucket) >= _BUCKET_ELEMENTS:
                flat = self.sum(torch.cat([member.flatten() for member in bucket]))
                for member, total in zip(bucket, flat.split([m.numel() for m in bucket]), strict=True):
                    member.copy_(total.view_as(member))
                bucket = []

    def concatenate(self, tensor: Tensor) -> Tensor:
        """The tensors of all processes (same shape), joined along the first dimension by rank."""
        return tensor if self._link is None else self._link.concatenate(tensor)


class _Terminated(BaseException):
    """SIGTERM outside the training loop, which has its own handler."""


@contextmanager
def open_processes(backend: str) -> Iterator[Processes]:
    """Join the processes that torchrun started (RANK, WORLD_SIZE) and leave them at the end.

    backend: "gloo" or "nccl". Raises EnvironmentFault if they fail to connect.
    """
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world_size == 1:
        yield Processes()
        return
    link = Link(rank, world_size, backend)
    processes = Processes(rank, world_size, link)
    with _termination_raises():
        try:
            yield processes
            processes.gather(None)  # no process leaves while another may still fail
        except _Terminated as error:
            # torchrun also sends SIGTERM when another process has ended; then report that.
            raise link.leave(link.explain(KeyboardInterrupt())) from error
        except BaseException as error:
            raise link.leave(error) from error.__cause__
        link.close()


@contextmanager
def _termination_raises() -> Iterator[None]:
    def terminate(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise _Terminated

    with handle_signals(terminate, signal.SIGTERM):
        yield


def under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def launcher() -> str:
    """The command that started this process, up to the verb."""
    if not under_torchrun():
        return "nanochat"
    machines, each = int(os.environ["GROUP_WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    where = "--standalone" if machines == 1 else f"--nnodes={machines} <rendezvous options as before>"
    return f"torchrun {where} --nproc_per_node={each} -m nanochat"
