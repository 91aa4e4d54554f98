"""One process at a time trains a run."""

import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from nanochat.runtime import Runtime
from nanochat.train import resuming

RUN = SimpleNamespace(model_tag="baserun")


def test_a_run_waits_for_the_process_that_trains_it(
    runtime: Callable[..., Runtime], monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    waiting, first_runs = threading.Event(), threading.Event()
    monkeypatch.setattr("nanochat.console.say", lambda line: (events.append(line), waiting.set()))

    @resuming.alone
    def first(_run: SimpleNamespace, _runtime: Runtime) -> None:
        first_runs.set()
        assert waiting.wait(timeout=30)
        events.append("first ends")

    @resuming.alone
    def second(_run: SimpleNamespace, _runtime: Runtime) -> None:
        events.append("second runs")

    thread = threading.Thread(target=first, args=(RUN, runtime()))
    thread.start()
    assert first_runs.wait(timeout=30)
    second(RUN, runtime())
    thread.join()
    assert events == [
        "another process is training baserun: waiting until it ends", "first ends", "second runs"
    ]  # fmt: skip


def test_other_runs_and_other_processes_of_the_run_do_not_wait(runtime: Callable[..., Runtime]) -> None:
    @resuming.alone
    def nested(_run: SimpleNamespace, _runtime: Runtime) -> str:
        return inner(SimpleNamespace(model_tag="sft"), runtime()) + inner(RUN, runtime(rank=1, world_size=1))

    @resuming.alone
    def inner(run: SimpleNamespace, _runtime: Runtime) -> str:
        return run.model_tag

    assert nested(RUN, runtime()) == "sftbaserun"
