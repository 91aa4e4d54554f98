"""One file through every fault of a server: it ends up complete or absent."""

import hashlib
import random
import threading
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.errors import EnvironmentFault
from nanochat.hub.retry import Refused, RetryPolicy
from nanochat.hub.threads import Cancellation, CancelledError
from nanochat.hub.transfer import DownloadSource, Rejected, download
from tests.conftest import full_disk
from tests.hub_server import FAULTS, LoopbackHub

DATA = random.Random(7).randbytes(200_000)
HALF = len(DATA) // 2


def source_of(hub: LoopbackHub, data: bytes = DATA, **changes) -> DownloadSource:
    hub.add("plain", "file.bin", data)
    stated = DownloadSource(
        "file.bin", f"{hub.url}/plain/file.bin", {}, len(data), hashlib.sha256(data).hexdigest()
    )
    return replace(stated, **changes)


def parts(directory: Path) -> list[Path]:
    return list(directory.glob("*.part"))


class Pauses(Cancellation):
    """A cancellation that is never set; records the waits instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout or 0.0)
        return False


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_ends_with_the_good_file(fault, hub, policy, tmp_path):
    held = 0

    def count(change: int) -> None:
        nonlocal held
        held += change

    hub.break_next(fault)
    path = download(source_of(hub), tmp_path / "file.bin", policy=policy, on_bytes=count)
    assert path.read_bytes() == DATA
    assert held == len(DATA)
    assert len(hub.content_requests()) > 1
    assert not parts(tmp_path)


@pytest.mark.parametrize("fault", ["cut", "truncate"])
def test_resumes_where_it_stopped(fault, hub, policy, tmp_path):
    hub.break_next(fault)
    download(source_of(hub), tmp_path / "file.bin", policy=policy)
    assert [request.range for request in hub.content_requests()] == [None, f"bytes={HALF}-"]


def test_resumes_in_a_later_run(hub, policy, tmp_path):
    hub.break_next("cut")
    with pytest.raises(EnvironmentFault, match="run the same command again"):
        download(source_of(hub), tmp_path / "file.bin", policy=replace(policy, attempts=1))
    (part,) = parts(tmp_path)
    assert part.read_bytes() == DATA[:HALF]
    assert download(source_of(hub), tmp_path / "file.bin", policy=policy).read_bytes() == DATA
    assert hub.content_requests()[-1].range == f"bytes={HALF}-"


def test_an_empty_file(hub, policy, tmp_path):
    assert download(source_of(hub, b""), tmp_path / "file.bin", policy=policy).read_bytes() == b""


def test_a_server_without_ranges_sends_all_again(hub, policy, tmp_path):
    hub.ignores_ranges = True
    hub.break_next("cut")
    assert download(source_of(hub), tmp_path / "file.bin", policy=policy).read_bytes() == DATA


def test_growth_of_the_file_resets_the_failure_count(hub, policy, tmp_path):
    hub.break_next(*["cut"] * 8)
    download(source_of(hub), tmp_path / "file.bin", policy=replace(policy, attempts=2))
    assert len(hub.content_requests()) == 9


def test_interruptions_without_growth_end_the_download(hub, policy, tmp_path):
    """A server that ignores ranges and always truncates at the same byte must not be retried forever."""
    hub.ignores_ranges = True
    hub.break_next(*["cut"] * 20)
    with pytest.raises(EnvironmentFault, match="4 times in a row"):
        download(source_of(hub), tmp_path / "file.bin", policy=replace(policy, attempts=4))
    assert len(hub.content_requests()) == 4


@pytest.mark.parametrize("fault", ["flip", "truncate", "padded"])
def test_nothing_corrupt_is_ever_accepted(fault, hub, policy, tmp_path):
    hub.break_next(*[fault] * 20)
    with pytest.raises(EnvironmentFault) as caught:
        download(source_of(hub), tmp_path / "file.bin", policy=replace(policy, attempts=3))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "file.bin").exists()


def test_bad_copies_are_bounded_and_thrown_away(hub, policy, tmp_path):
    hub.break_next(*["flip"] * policy.bad_copies)
    with pytest.raises(Rejected, match=f"sha256.*in each of {policy.bad_copies} copies"):
        download(source_of(hub), tmp_path / "file.bin", policy=policy)
    assert len(hub.content_requests()) == policy.bad_copies
    assert not list(tmp_path.iterdir())


def test_a_copy_that_fails_its_check_is_bad(hub, policy, tmp_path):
    def check(path: Path) -> None:
        raise ValueError("no such format")

    with pytest.raises(Rejected, match="no such format"):
        download(source_of(hub), tmp_path / "file.bin", policy=policy, check=check)


@pytest.mark.parametrize(
    ("brake", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"RateLimit": '"api";r=0;t=55'}, 55.0),
        ({"Retry-After": "86400"}, RetryPolicy().longest_obeyed_s),
        ({"Retry-After": formatdate(0)}, 0.0),  # long past
        ({"Retry-After": "soon"}, 0.0),
        ({}, 0.0),
    ],
)
def test_waits_as_long_as_the_server_asks(brake, seconds, hub, policy, tmp_path):
    hub.brake, pauses = brake, Pauses()
    hub.break_next("429")
    patient = replace(policy, longest_obeyed_s=RetryPolicy().longest_obeyed_s)
    download(source_of(hub), tmp_path / "file.bin", policy=patient, cancelled=pauses)
    assert pauses.seconds == [pytest.approx(seconds, abs=policy.first_pause_s)]


@given(failures=st.integers(1, 40), asked=st.none() | st.floats(0, 1e5))
def test_pauses_grow_and_are_bounded(failures, asked):
    policy = RetryPolicy()
    pause = policy.pause(failures, asked)
    grown = min(policy.first_pause_s * 2 ** (failures - 1), policy.longest_pause_s)
    obeyed = min(asked or 0.0, policy.longest_obeyed_s)
    assert max(grown / 2, obeyed) <= pause <= max(grown, obeyed)


def test_a_missing_file_is_requested_once(hub, policy, tmp_path):
    source = replace(source_of(hub), url=f"{hub.url}/plain/other.bin")
    with pytest.raises(Refused, match="HTTP 404"):
        download(source, tmp_path / "file.bin", policy=policy)
    assert len(hub.content_requests()) == 1


def test_partial_files_of_two_versions_are_never_mixed(hub, policy, tmp_path):
    hub.break_next("cut")
    with pytest.raises(EnvironmentFault):
        download(source_of(hub), tmp_path / "file.bin", policy=replace(policy, attempts=1))
    newer = DATA[::-1]
    assert download(source_of(hub, newer), tmp_path / "file.bin", policy=policy).read_bytes() == newer
    assert hub.content_requests()[-1].range is None
    assert not parts(tmp_path)


def test_a_partial_file_of_unknown_version_is_not_trusted(hub, policy, tmp_path):
    hub.break_next("cut")
    unknown = {"size": None, "sha256": None, "version": None}
    with pytest.raises(EnvironmentFault):
        download(source_of(hub, **unknown), tmp_path / "file.bin", policy=replace(policy, attempts=1))
    newer = DATA[::-1]
    path = download(source_of(hub, newer, **unknown), tmp_path / "file.bin", policy=policy)
    assert path.read_bytes() == newer


def test_cancelling_keeps_the_partial_file(hub, policy, tmp_path):
    cancelled = Cancellation()

    def cancel(change: int) -> None:
        cancelled.set()

    with pytest.raises(CancelledError):
        download(source_of(hub), tmp_path / "file.bin", policy=policy, on_bytes=cancel, cancelled=cancelled)
    assert len(parts(tmp_path)) == 1


def test_a_vanished_server_is_one_line_and_the_next_run_resumes(hub, policy, tmp_path):
    hub.break_next("vanish")
    with pytest.raises(EnvironmentFault, match="3 times in a row") as caught:
        download(source_of(hub), tmp_path / "file.bin", policy=replace(policy, attempts=3))
    assert "\n" not in str(caught.value)
    hub.start()
    assert download(source_of(hub), tmp_path / "file.bin", policy=policy).read_bytes() == DATA
    assert hub.content_requests()[-1].range == f"bytes={HALF}-"


def test_a_download_survives_a_server_restart(hub, policy, tmp_path):
    def come_back() -> None:
        hub.vanished.wait()
        hub.start()

    returning = threading.Thread(target=come_back)
    returning.start()
    hub.break_next("vanish")
    path = download(source_of(hub), tmp_path / "file.bin", policy=replace(policy, attempts=100_000))
    returning.join()
    assert path.read_bytes() == DATA


def test_a_write_error_is_one_line(hub, policy, tmp_path):
    with full_disk(after=HALF), pytest.raises(EnvironmentFault, match="cannot write"):
        download(source_of(hub), tmp_path / "file.bin", policy=policy)
    (tmp_path / "occupied").write_text("a file")
    with pytest.raises(EnvironmentFault, match="a file stands where a folder is needed"):
        download(source_of(hub), tmp_path / "occupied" / "file.bin", policy=policy)
