"""Several processes behind one port: the parent opens the socket, each child accepts from it on a device of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from types import FrameType

from nanochat.errors import EnvironmentFault
from nanochat.paths import Paths
from nanochat.serve.server import ServeConfig, serve
from nanochat.serve.telemetry import SHARED_FOLDER
from nanochat.signals import handle_signals


def run_replicas(config: ServeConfig, paths: Paths, listener: socket.socket) -> None:
    """Run the processes until all have ended; a signal to this one stops them.

    If one fails the others are stopped, so that whoever started the server notices. Raises EnvironmentFault then.
    """
    spawn = multiprocessing.get_context("spawn")
    with _shared_metrics():
        children = [
            spawn.Process(target=_replica, args=(number, config, paths, listener), name=f"replica {number}")
            for number in range(config.replicas)
        ]
        stopping: list[int] = []

        def stop(number: int, _: FrameType | None) -> None:
            stopping.append(number)
            for child in children:
                if child.is_alive():
                    child.terminate()

        with handle_signals(stop, signal.SIGTERM, signal.SIGINT):
            for child in children:
                _start(child)
            if stopping:  # a child that was not started yet has not been told
                stop(stopping[0], None)
            running = {child.sentinel: child for child in children}
            failed = []
            while running:
                for sentinel in wait(list(running)):
                    child = running.pop(sentinel)  # type: ignore[arg-type]
                    child.join()
                    stopped_early = stopping and child.exitcode == -signal.SIGTERM  # before it was ready
                    if child.exitcode and not stopped_early:
                        failed.append(child)
                if failed and not stopping:
                    stop(signal.SIGTERM, None)
    if failed:
        raise EnvironmentFault(f"{failed[0].name} ended with status {failed[0].exitcode}; all were stopped")


def _start(child: SpawnProcess) -> None:
    """Start a child that Ctrl-C does not reach: until `os.setsid` it would get the terminal's, too."""
    resource_tracker.ensure_running()  # `start` would do it, and unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which the child inherits
    try:
        child.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _shared_metrics() -> Iterator[None]:
    """A folder through which the processes add up their metrics, named in the environment that they inherit."""
    with tempfile.TemporaryDirectory(prefix="nanochat-metrics-") as folder:
        os.environ[SHARED_FOLDER] = folder
        try:
            yield
        finally:
            with suppress(KeyError):
                del os.environ[SHARED_FOLDER]


def _replica(number: int, config: ServeConfig, paths: Paths, listener: socket.socket) -> None:
    """One child: GPU `number`, if there are any."""
    os.environ["LOCAL_RANK"] = str(number)
    os.setsid()  # Ctrl-C reaches only the parent, which passes it on
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        serve(config, paths, listener)
    except (ValueError, EnvironmentFault) as error:
        print(f"nanochat (replica {number}): error: {error}", file=sys.stderr, flush=True)
        sys.exit(1)


def _end_with_parent() -> None:
    """Stop this process when the parent is gone, even killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
