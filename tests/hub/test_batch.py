"""Many files: one process at a time, disk space, one bad file among good ones."""

import re
import threading
from dataclasses import replace

import pytest
from filelock import FileLock

from nanochat import console
from nanochat.errors import EnvironmentFault
from nanochat.hub.batch import LOCK_NAME, Job, download_all
from nanochat.hub.listing import describe
from nanochat.hub.transfer import DownloadSource

NAMES = [f"file_{index}.bin" for index in range(5)]


@pytest.fixture
def jobs(hub, policy, tmp_path) -> list[Job]:
    for name in NAMES:
        hub.add("owner/name", name, name.encode() * 1000)
    return [file.to(tmp_path / "data") for file in describe("owner/name", NAMES, policy)]


def bring(jobs: list[Job], tmp_path, policy, **changes) -> None:
    download_all(jobs, tmp_path / "data", title="owner/name", policy=policy, **changes)


def test_the_first_file_is_whole_before_the_others_begin(jobs, hub, policy, tmp_path):
    hub.break_next("cut", "503", "flip")
    bring(jobs, tmp_path, policy)
    asked = [request.path.rsplit("/", 1)[-1] for request in hub.content_requests()]
    assert asked[:4] == [NAMES[0]] * 4
    assert sorted(asked[4:]) == NAMES[1:]


def test_one_bad_file_does_not_stop_the_others(jobs, hub, policy, tmp_path):
    hub.state(NAMES[2], sha256="0" * 64)
    stated = [file.to(tmp_path / "data") for file in describe("owner/name", NAMES, policy)]
    with pytest.raises(EnvironmentFault, match=f"{NAMES[2]}: its sha256 differs") as caught:
        bring(stated, tmp_path, policy)
    assert "\n" not in str(caught.value)
    here = sorted(path.name for path in (tmp_path / "data").glob("file_*"))
    assert here == [name for name in NAMES if name != NAMES[2]]


def test_a_silent_server_ends_the_whole_download(jobs, hub, policy, tmp_path):
    hub.break_next("ok", "vanish")
    with pytest.raises(EnvironmentFault, match="10 times in a row"):
        bring(jobs, tmp_path, policy, workers=1)
    assert [path.name for path in (tmp_path / "data").glob("*.bin")] == [NAMES[0]]


def test_too_little_disk_space_is_an_error_before_any_download(hub, policy, jobs, tmp_path):
    hub.state(NAMES[1], size=10**18)
    huge = [file.to(tmp_path / "data") for file in describe("owner/name", NAMES, policy)]
    with pytest.raises(EnvironmentFault, match=r"5 files still need 1000000000\.\d+ GB, but .* GB free"):
        bring(huge, tmp_path, policy)
    assert not hub.content_requests()


def test_progress_shows_bytes_rate_and_time_left(jobs, policy, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(console, "PLAIN_INTERVAL_S", 0.0)
    bring(jobs, tmp_path, policy, workers=1)
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(r"downloading owner/name: 50k/50k B, \S+ B/s, 0s left, files 5/5, took \d+s", last), (
        last
    )


@pytest.mark.parametrize("version", [None, "1"])
def test_progress_includes_bytes_kept_from_an_earlier_run(
    version, hub, policy, tmp_path, capsys, monkeypatch
):
    """A partial file of unknown version is discarded, one of a known version resumed; both end as one file."""
    monkeypatch.setattr(console, "PLAIN_INTERVAL_S", 0.0)
    hub.add("plain", "file.bin", bytes(60_000))
    source = DownloadSource("file.bin", f"{hub.url}/plain/file.bin", size=60_000, version=version)
    job = Job(source, tmp_path / "data" / "file.bin")
    hub.break_next("cut")
    with pytest.raises(EnvironmentFault, match="run the same command again"):
        bring([job], tmp_path, replace(policy, attempts=1))
    assert source.part_of(job.destination).stat().st_size == 30_000
    assert job.held() == (30_000 if version else 0)
    capsys.readouterr()
    bring([job], tmp_path, policy)
    assert "60k/60k B" in capsys.readouterr().err.splitlines()[-1]
    assert hub.content_requests()[-1].range == ("bytes=30000-" if version else None)


def test_waits_for_another_process_only_until_the_wanted_files_exist(jobs, hub, policy, tmp_path, capsys):
    """The other process downloads the two files wanted here and keeps the lock."""
    directory, ours = tmp_path / "data", jobs[:2]
    directory.mkdir()
    with FileLock(directory / LOCK_NAME):
        waiting = threading.Thread(target=bring, args=(ours, tmp_path, policy))
        waiting.start()
        for job in ours:
            job.destination.write_bytes(job.destination.name.encode() * 1000)
        waiting.join(timeout=60)
        assert not waiting.is_alive()
    assert not hub.content_requests()


def test_takes_over_from_a_killed_process(jobs, hub, policy, tmp_path):
    directory = tmp_path / "data"
    directory.mkdir()
    lock = FileLock(directory / LOCK_NAME, thread_local=False)
    lock.acquire()
    waiting = threading.Thread(target=bring, args=(jobs, tmp_path, policy))
    waiting.start()
    lock.release()
    waiting.join(timeout=60)
    assert all(job.is_done(None) for job in jobs)


def test_complete_files_need_neither_the_server_nor_the_lock(jobs, hub, policy, tmp_path):
    bring(jobs, tmp_path, policy)
    hub.vanish()
    (tmp_path / "data" / LOCK_NAME).unlink()
    bring(jobs, tmp_path, policy)
    assert not (tmp_path / "data" / LOCK_NAME).exists()
