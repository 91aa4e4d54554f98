"""The watching thread of a process: others hear it whatever the process itself is waiting for."""

import threading
import time
from datetime import timedelta
from unittest.mock import Mock

import pytest
import torch.distributed as dist

from nanochat import process_link
from nanochat.process_link import Link


def test_after_a_pause_of_this_process_nobody_is_thought_lost() -> None:
    link = Link.__new__(Link)
    link._rank, link._store_lost, link._looked_at = 0, False, time.monotonic() - 60
    link._heard = [("", 0.0), ("7", time.monotonic() - 60)]
    store = Mock(check=Mock(return_value=False))
    assert link._trouble(store, 20.0) is None
    link._heard[1] = ("7", time.monotonic() - 60)  # looked at a moment ago, and silent for a minute
    assert "no sign of life" in str(link._trouble(store, 20.0))


def test_a_process_that_waits_for_a_key_still_shows_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL exchanges its addresses that way, over the run's own connection."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    other = dist.TCPStore("127.0.0.1", store.port)
    monkeypatch.setattr(process_link, "_BEAT_S", 0.01)
    monkeypatch.setattr(process_link.dist, "rendezvous", lambda *_, **__: iter([(store, 0, 2)]))
    monkeypatch.setattr(process_link.dist, "init_process_group", lambda *_, **__: None)
    link = Link(0, 2, "gloo")
    waiting = threading.Thread(target=store.wait, args=(["address"], timedelta(seconds=60)))
    waiting.start()
    try:
        first, deadline = int(other.get("nanochat/alive/0")), time.monotonic() + 20
        while int(other.get("nanochat/alive/0")) < first + 5:
            assert time.monotonic() < deadline, "no sign of life"
    finally:
        other.set("address", "")
        waiting.join()
        link._left = True
        link._thread.join()
