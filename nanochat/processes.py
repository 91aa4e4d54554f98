"""Several processes as one run: who this one is, every collective, every shared decision, every shared failure.

Three rules keep processes in step. What must not differ between them, process 0 decides (`decide`) or all compare
(`same`). What may fail on one of them stands in `together`, which communicates with nobody and afterwards tells
everybody whether it succeeded. Only then come the collectives on tensors, which all of them now reach.

With one process nothing here communicates.
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

T = TypeVar("T")

_BUCKET_ELEMENTS = 16 * 1024 * 1024


class Abandoned(Exception):  # noqa: N818 - no error
    """Work that may be skipped made way for a stop."""


class Processes:
    """This process and the others of its run. Made by `open_processes`; `Processes()` is one process alone."""

    def __init__(self, rank: int = 0, world_size: int = 1, link: Link | None = None):
        """Without a link, a process of a world can take its share but not communicate."""
        self.rank, self.world_size = rank, world_size
        self._link = link
        self._agreed: Exception | None = None  # the last failure that every process knows of
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

        If it failed on any, it fails on all: with its own error where it happened, elsewhere with ProcessFailure.
        """
        failure: Exception | None = None
        try:
            self._set_alone(True)
            if self._skippable and self._stop:
                raise Abandoned(self._stop)
            yield
            self._set_alone(False)  # inside the try: `interrupt` raises either in here or not at all
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
        """Let the body fail, on every process and at the cost of one warning, where `together` failed in it.

        skippable: a stop (see `interrupt`) abandons the body.
        """
        self._skippable = skippable
        try:
            yield
        except Exception as error:
            if self.world_size > 1 and error is not self._agreed:
                raise  # the others do not know of it
            if isinstance(error, Abandoned):
                say(f"{what} abandoned: {error}")
                return
            here = self.world_size > 1 and not isinstance(error, ProcessFailure)
            where = f" on process {self.rank}" if here else ""
            warn(f"{what} failed{where}, training continues: {describe(error)}")
        finally:
            self._skippable = False

    def interrupt(self, reason: str) -> None:
        """For a signal handler: abandon what is skippable, now and from now on. Other work continues."""
        self._stop = reason
        if self._skippable and self._alone:
            raise Abandoned(reason)

    # ---- decisions

    def decide(self, choose: Callable[[], T]) -> T:
        """What `choose` returns on process 0, on every process (plain picklable containers)."""
        return self._exchange(Outcome(choose() if self.is_main else None))[0]

    def gather(self, value: T) -> list[T]:
        """Everyone's value, by rank."""
        return self._exchange(Outcome(value))

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true on any process."""
        return any(self.gather(flag))

    def same(self, what: str, value: object) -> None:
        """Raise ValueError unless every process has the value of process 0."""
        first, *others = self.gather(value)
        for rank, other in enumerate(others, start=1):
            if other != first:
                raise ValueError(
                    f"{what} differs between processes: {first} on process 0, {other} on process {rank}; "
                    "give every machine the same files and versions"
                )

    def _exchange(self, mine: Outcome) -> list[Any]:
        """Everyone's values. Raises ProcessFailure, on every process, for the first that has none."""
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
        """Sum each tensor over the processes, in place, many small ones in one message."""
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
        """Everyone's tensors, of one shape, joined along the first dimension by rank."""
        return tensor if self._link is None else self._link.concatenate(tensor)


class _Terminated(BaseException):
    """SIGTERM outside of a training loop, which has its own answer to it."""


@contextmanager
def open_processes(backend: str) -> Iterator[Processes]:
    """Join the processes that torchrun started (RANK, WORLD_SIZE) and part from them at the end.

    backend: "gloo" or "nccl". Raises EnvironmentFault where they do not come together.
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
            processes.gather(None)  # nobody takes the group down while another may still fail
        except _Terminated as error:
            # torchrun sends SIGTERM also because another process has ended: then that is the reason to give.
            raise link.leave(link.explain(KeyboardInterrupt())) from error
        except BaseException as error:
            raise link.leave(error) from error.__cause__
        link.close()


@contextmanager
def _termination_raises() -> Iterator[None]:
    def terminate(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise _Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def launcher() -> str:
    """The command that starts nanochat as this process was started, up to the verb."""
    if not under_torchrun():
        return "nanochat"
    machines, each = int(os.environ["GROUP_WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    where = "--standalone" if machines == 1 else f"--nnodes={machines} <rendezvous options as before>"
    return f"torchrun {where} --nproc_per_node={each} -m nanochat"
