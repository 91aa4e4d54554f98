"""Communication between the processes of a run: torch.distributed's key-value store and its process group.

Small values go through the store, where a process waits as long as the others send heartbeats. Tensors go through the
process group, whose waits time out. A process that exits with an error writes it to the store; one that is killed
stops sending heartbeats. Either way the others raise ProcessFailure.
"""

import json
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nanochat.config import parse_json
from nanochat.errors import EnvironmentFault, first_line

_BEAT_S = 1.0  # between heartbeats
_LOST_S = 20.0  # without a heartbeat: a process is lost. Below the 30 s torchrun grants after SIGTERM
_PAUSED_S = 10.0  # between two looks at the others' heartbeats: this process itself was stopped
_DYING_S = 4.0  # the same, once something is known to be wrong
_STUCK_S = 15.0  # how long a process may stay blocked in a collective after another has failed
_LONGEST_PAUSE_S = 0.05  # between polls of the store
_JOIN_TIMEOUT = timedelta(minutes=5)
# The last resort against a deadlock of live processes. Generous, because a GPU's collective also waits for the work
# queued before it.
_COLLECTIVE_TIMEOUT = timedelta(minutes=10)


class ProcessFailure(EnvironmentFault):
    """Another process failed. `speaks`: whether this process reports it to the user."""

    def __init__(self, process: int, reason: str, *, speaks: bool):
        super().__init__(f"process {process} failed: {reason}")
        self.process, self.reason, self.speaks = process, reason, speaks


@dataclass(frozen=True)
class Outcome:
    """What a process contributes to an exchange: a value, or the reason why it has none."""

    value: Any = None
    failure: str | None = None


class Link:
    """One process's connection to the others, with a thread that watches them."""

    def __init__(self, rank: int, world_size: int, backend: str):
        """Wait for the other processes. Raises EnvironmentFault if they fail to connect."""
        try:
            store, _, _ = next(iter(dist.rendezvous("env://", rank, world_size, timeout=_JOIN_TIMEOUT)))
            group = dist.PrefixStore("group", store)
            dist.init_process_group(
                backend, store=group, rank=rank, world_size=world_size, timeout=_COLLECTIVE_TIMEOUT
            )
        except (RuntimeError, ValueError) as error:
            raise EnvironmentFault(
                f"cannot join the other processes ({backend}): {describe(error)}"
            ) from error
        self._rank, self._world_size = rank, world_size
        self._store = dist.PrefixStore("nanochat", store)
        # Of the watching thread: a connection that waits for a key, as NCCL's does at first, serves nobody else.
        self._watch_store = dist.PrefixStore("nanochat", store.clone())
        self._exchanges = 0
        self._heard = [("", time.monotonic())] * world_size  # each one's last heartbeat, and when it arrived
        self._looked_at = time.monotonic()
        self._store_lost = self._left = False
        self.working_alone = False  # inside work that does not communicate and ends by itself
        self._thread = threading.Thread(target=self._watch, name="processes", daemon=True)
        self._thread.start()

    def exchange(self, mine: Outcome) -> list[Outcome]:
        """The outcomes of all processes by rank. Waits while all are alive. Raises ProcessFailure."""
        number, self._exchanges = self._exchanges, self._exchanges + 1
        keys = [f"{number}/{rank}" for rank in range(self._world_size)]
        try:
            self._store.set(keys[self._rank], pickle.dumps(mine))  # type: ignore[arg-type]
            pause = 1e-5
            while not self._store.check(keys):
                failure = self._trouble(self._store, _LOST_S)
                if failure is not None and not self._store.check(keys):  # else it came after this exchange
                    raise failure
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            outcomes = [pickle.loads(value) for value in self._store.multi_get(keys)]
            if number:  # all are here, so all have read the previous exchange
                self._store.delete_key(f"{number - 1}/{self._rank}")
        except dist.DistError as error:
            raise self.explain(error) from error
        return outcomes

    def sum(self, tensor: Tensor) -> None:
        """Sum over processes, in place."""
        self._collective(lambda: dist.all_reduce(tensor))

    def concatenate(self, tensor: Tensor) -> Tensor:
        """The tensors of all processes (same shape), joined along the first dimension by rank."""
        joined = tensor.new_empty(len(tensor) * self._world_size, *tensor.shape[1:])
        self._collective(lambda: dist.all_gather(list(joined.chunk(self._world_size)), tensor))
        return joined

    def _collective(self, call: Callable[[], object]) -> None:
        try:
            call()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # what gloo and NCCL raise when another process has gone
            raise self.explain(error) from error

    def failure(self, process: int, reason: str) -> ProcessFailure:
        """The error to raise here when another process failed. The lowest remaining rank reports it."""
        return ProcessFailure(process, reason, speaks=self._rank == (0 if process else 1))

    def explain(self, error: BaseException) -> BaseException:
        """The failure of another process that caused `error`, or `error` itself if the others are alive."""
        deadline = time.monotonic() + 2 * _DYING_S
        while time.monotonic() < deadline:
            if (failure := self._trouble(self._store, _DYING_S)) is not None:
                return failure
            time.sleep(_LONGEST_PAUSE_S)
        return error

    def _trouble(self, store: dist.Store, patience_s: float) -> ProcessFailure | None:
        """The failure of another process: as reported, or no heartbeat for more than `patience_s` seconds."""
        try:
            if store.check(["failure"]):
                return self.failure(*parse_json(store.get("failure")))
        except dist.DistError:
            self._store_lost = True
        if self._store_lost:
            return self.failure(0, "its key-value store is gone: it or its torchrun was killed or cut off")
        now = time.monotonic()
        if now - self._looked_at > _PAUSED_S:  # nothing could be heard
            self._heard = [(sign, now) for sign, _ in self._heard]
        self._looked_at = now
        silence, rank = max(
            (now - at, rank) for rank, (_, at) in enumerate(self._heard) if rank != self._rank
        )
        if silence > patience_s:
            return self.failure(rank, f"no sign of life for {silence:.0f} s: it was killed or cut off")
        return None

    def leave(self, error: BaseException) -> BaseException:
        """Tell the others why this process ends; returns the error to raise.

        The process group stays, because destroying it would wait for the others.
        """
        self._left = True
        process, reason = self._rank, describe(error)
        if isinstance(error, ProcessFailure):
            process, reason = error.process, error.reason
        with suppress(dist.DistError):
            first = parse_json(self._store.compare_set("failure", "", json.dumps((process, reason))))
            if not isinstance(error, ProcessFailure) and first != [process, reason] and first[1] == reason:
                return ProcessFailure(*first, speaks=False)  # the same mistake; one process reports it
        return error

    def close(self) -> None:
        """End a run that succeeded everywhere. Process 0 may host the store, so it leaves last."""
        self._left = True
        self._thread.join()
        dist.destroy_process_group()
        with suppress(dist.DistError):
            self._store.set(f"left/{self._rank}", "")
            if self._rank == 0:
                everyone = [f"left/{rank}" for rank in range(self._world_size)]
                self._store.wait(everyone, timedelta(seconds=_LOST_S))

    def _watch(self) -> None:
        """Send heartbeats and check the others'; end this process if it is stuck after another has failed."""
        stuck_s = 0.0
        for beat in count():
            if self._left:
                return
            self._beat(beat)
            failure = self._trouble(self._watch_store, _LOST_S)
            stuck_s = stuck_s + _BEAT_S if failure is not None and not self.working_alone else 0.0
            if failure is not None and stuck_s > _STUCK_S:
                print(f"nanochat (process {self._rank}): error: {failure}", file=sys.stderr, flush=True)
                os._exit(1)
            time.sleep(_BEAT_S)

    def _beat(self, beat: int) -> None:
        try:
            self._watch_store.set(f"alive/{self._rank}", str(beat))
            for rank in range(self._world_size):
                if self._watch_store.check([f"alive/{rank}"]):
                    sign = self._watch_store.get(f"alive/{rank}").decode()
                    if sign != self._heard[rank][0]:
                        self._heard[rank] = (sign, time.monotonic())
        except dist.DistError:
            self._store_lost = True


def describe(error: BaseException) -> str:
    """An error in one line, with its type unless the message is written for users."""
    first = first_line(error)
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return f"out of memory ({first})" if first else "out of memory"
    if isinstance(error, ValueError | EnvironmentFault | OSError) and first:
        return first
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
