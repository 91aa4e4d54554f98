"""The loopback hub, and a retry policy with pauses of milliseconds."""

from collections.abc import Iterator

import pytest

from nanochat.hub import RetryPolicy
from tests.hub_server import LoopbackHub, loopback_hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    with loopback_hub(monkeypatch) as running:
        yield running


@pytest.fixture
def policy() -> RetryPolicy:
    return RetryPolicy(first_pause_s=0.001, longest_pause_s=0.01, longest_obeyed_s=0.01, stall_timeout_s=0.5)
