"""Threads that can be abandoned: leaving is prompt, and afterwards they change nothing."""

import threading
import time
from concurrent.futures import wait

import pytest

from nanochat.hub.retry import RetryPolicy
from nanochat.hub.threads import Cancellation, CancelledError, in_threads
from nanochat.hub.transfer import DownloadSource, download

DATA = b"0123456789" * 10_000
HALF = len(DATA) // 2


@pytest.mark.parametrize("workers", [1, 3, 100])
def test_every_item_is_done_by_the_given_number_of_workers(workers):
    names, met = set(), threading.Barrier(min(workers, 20), timeout=60)

    def work(item: int, cancelled: Cancellation) -> int:
        names.add(threading.get_ident())
        if item < met.parties:
            met.wait()  # as many as there are workers are at work at once
        return item * item

    with in_threads(work, range(20), workers) as futures:
        assert [future.result() for future in futures] == [item * item for item in range(20)]
    assert len(names) == met.parties


def test_an_error_of_the_work_is_stored_in_its_future():
    def work(item: int, cancelled: Cancellation) -> float:
        return 1 / item

    with in_threads(work, [1, 0, 2], 1) as futures:
        wait(futures)
    assert [future.exception() is None for future in futures] == [True, False, True]


def test_no_file_changes_after_leaving(hub, tmp_path):
    """The server stalls, the work is abandoned, the server continues: the rest is no longer written."""
    hub.add("plain", "file.bin", DATA)
    hub.break_next("stall")
    target = tmp_path / "file.bin"
    source = DownloadSource("file.bin", f"{hub.url}/plain/file.bin", size=len(DATA), version="1")
    part = source.part_of(target)

    def work(source: DownloadSource, cancelled: Cancellation) -> None:
        download(source, target, policy=RetryPolicy(), cancelled=cancelled)

    with in_threads(work, [source], 1) as futures:
        while not (part.exists() and part.stat().st_size == HALF):
            assert not futures[0].done()
            time.sleep(0.001)
        began = time.monotonic()
    assert time.monotonic() - began < RetryPolicy().stall_timeout_s / 3
    hub.release()
    assert isinstance(futures[0].exception(timeout=60), CancelledError)
    assert part.read_bytes() == DATA[:HALF]
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [part.name]
