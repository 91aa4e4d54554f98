"""One of several processes that run a list of cases: `process_cases.py SPEC`, with torchrun's variables set.

SPEC is a JSON file: [{"argv", "faults": [{"place", "rank", "call"}]}]. Each case is a command line, run in this process
with faults injected; the outcomes go to SPEC.RANK as JSON.
"""

import contextlib
import io
import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist

from nanochat import process_link
from nanochat.atomic import write_text_atomic
from nanochat.batches.loader import Loader
from nanochat.checkpoint import store
from nanochat.cli.main import main
from nanochat.eval import bpb, conversation_loss, prompt_states
from nanochat.infer.engine import Engine
from nanochat.model.gpt import GPT
from nanochat.optim.muon_adamw import MuonAdamW
from nanochat.train import hooks

RANK = int(os.environ["RANK"])

PLACES = {
    "loader": (Loader, "_make", OSError(5, "the disk is unwell")),
    "step": (GPT, "loss", torch.OutOfMemoryError("as if")),
    "optimizer": (MuonAdamW, "_orthogonalise", torch.OutOfMemoryError("as if")),
    "save": (store, "save", OSError(28, "No space left on device")),
    "evaluation": (bpb, "length_batches", torch.OutOfMemoryError("as if")),
    "sampling": (hooks, "sample", torch.OutOfMemoryError("as if")),
    "conversations": (conversation_loss, "length_batches", torch.OutOfMemoryError("as if")),
    "choices": (prompt_states, "length_batches", torch.OutOfMemoryError("as if")),
    "answers": (Engine, "generate", torch.OutOfMemoryError("as if")),
}
"""Where a fault can be injected, and the error it raises."""


@contextlib.contextmanager
def fault(place: str, rank: int, call: int) -> Iterator[None]:
    """Make the `call`-th call at a place fail on one process."""
    owner, name, error = PLACES[place]
    original: Callable = getattr(owner, name)
    calls = 0

    def wrapped(*args, **kwargs):
        nonlocal calls
        calls += 1
        if rank == RANK and calls == call:
            raise error
        return original(*args, **kwargs)

    with mock.patch.object(owner, name, wrapped):
        yield


@contextlib.contextmanager
def recorded(log: list) -> Iterator[None]:
    """Record every collective: its name and, for a tensor, its dtype and size."""

    def noting(name: str) -> Callable:
        original = getattr(process_link.Link, name)

        def wrapped(self, value):
            tensor = (str(value.dtype), list(value.shape)) if isinstance(value, torch.Tensor) else ()
            log.append([name, *tensor])
            return original(self, value)

        return wrapped

    with contextlib.ExitStack() as stack:
        for name in ("exchange", "sum", "concatenate"):
            stack.enter_context(mock.patch.object(process_link.Link, name, noting(name)))
        yield


def free_port(file: Path) -> int:
    """A port that process 0 has found free just now, told to the others by a file."""
    if RANK == 0:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            write_text_atomic(file, str(probe.getsockname()[1]))
    while not file.exists():
        time.sleep(0.005)
    return int(file.read_text())


def run(case: dict) -> dict:
    log: list = []
    errors = io.StringIO()
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        stack.enter_context(recorded(log))
        for spec in case["faults"]:
            stack.enter_context(fault(**spec))
        stack.enter_context(contextlib.redirect_stderr(errors))
        try:
            status = main(case["argv"])
        except BaseException:  # the traceback is a result; the other cases still run
            traceback.print_exc()
            status = -1
    seconds = time.monotonic() - began
    if dist.is_initialized():
        dist.destroy_process_group()
    return {"status": status, "seconds": seconds, "errors": errors.getvalue(), "collectives": log}


if __name__ == "__main__":
    outcomes = []
    for number, case in enumerate(json.loads(Path(sys.argv[1]).read_text())):
        os.environ["MASTER_PORT"] = str(free_port(Path(f"{sys.argv[1]}.port-{number}")))
        outcomes.append(run(case))
    Path(f"{sys.argv[1]}.{RANK}").write_text(json.dumps(outcomes))
    sys.stdout.flush()
    os._exit(0)
