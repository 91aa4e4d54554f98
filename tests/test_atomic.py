"""A file is complete or absent: after errors, full disks, kills, and with several writers."""

import errno
import hashlib
import os
import stat
import subprocess
import sys
import textwrap
from contextlib import nullcontext
from pathlib import Path

import pytest

from nanochat.atomic import file_lock, remove_temporaries, sha256_of, stage, write_atomic, write_text_atomic
from nanochat.errors import EnvironmentFault
from tests.conftest import full_disk


def test_the_new_content_replaces_the_old(tmp_path: Path):
    path = tmp_path / "deep" / "file.txt"
    write_text_atomic(path, "älter\r\n")
    write_text_atomic(path, "neu\n")
    assert path.read_bytes() == b"neu\n"
    assert os.listdir(path.parent) == ["file.txt"]


def test_an_error_while_writing_leaves_the_old_content(tmp_path: Path):
    path = tmp_path / "file"
    write_text_atomic(path, "old")

    def fail(file):
        file.write(b"half")
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        write_atomic(path, fail)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_is_one_clear_line_and_nothing_half_written(tmp_path: Path):
    path = tmp_path / "file"
    write_text_atomic(path, "old")
    with (
        full_disk(after=1000),
        pytest.raises(EnvironmentFault, match=r"cannot write .*file: File too large; .+") as caught,
    ):
        write_atomic(path, lambda file: file.write(bytes(100_000)))
    assert "\n" not in str(caught.value)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(("reason", "written"), [(errno.EINVAL, True), (errno.EIO, False)])
def test_a_folder_that_cannot_be_synced_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: int, written: bool
):
    """Some shared file systems answer EINVAL; a disk's error is one."""
    sync = os.fsync

    def of_files_only(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(reason, os.strerror(reason))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", of_files_only)
    with nullcontext() if written else pytest.raises(EnvironmentFault, match="cannot write"):
        write_text_atomic(tmp_path / "file", "text")


@pytest.mark.parametrize("place", ["a file/x", "a file/sub/x", "/proc/nanochat/x"])
def test_an_impossible_path_is_one_clear_line(tmp_path: Path, place: str):
    (tmp_path / "a file").write_text("")
    with pytest.raises(EnvironmentFault, match="cannot write") as caught:
        write_text_atomic(tmp_path / place, "text")
    assert "\n" not in str(caught.value)


def test_a_directory_in_the_way_is_one_clear_line(tmp_path: Path):
    (tmp_path / "taken" / "sub").mkdir(parents=True)
    with pytest.raises(EnvironmentFault, match=r"cannot write .*taken"):
        write_text_atomic(tmp_path / "taken", "text")
    assert os.listdir(tmp_path) == ["taken"]


def test_leftovers_of_killed_writers_can_be_removed(tmp_path: Path):
    write_text_atomic(tmp_path / "model.pt", "whole")
    stage(tmp_path / "model.pt", lambda file: file.write(b"never renamed"))
    other = stage(tmp_path / "other", lambda file: file.write(b"never renamed"))
    remove_temporaries(tmp_path, prefix="model")
    assert sorted(os.listdir(tmp_path)) == sorted([other.name, "model.pt"])
    remove_temporaries(tmp_path)
    assert os.listdir(tmp_path) == ["model.pt"]


def test_sha256_of_a_file(tmp_path: Path):
    content = os.urandom(3_000_000)
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()


_HOLDER = textwrap.dedent("""
    import sys
    from nanochat.atomic import file_lock
    with file_lock(sys.argv[1], message="waiting for the other one"):
        print("held", flush=True)
        sys.stdin.readline()
""")


def test_one_process_at_a_time_holds_the_lock_and_others_say_that_they_wait(tmp_path: Path):
    lock = tmp_path / "new folder" / "x.lock"
    command = [sys.executable, "-c", _HOLDER, str(lock)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as first, subprocess.Popen(command, **pipes) as second:
        # Whoever comes second says so; neither holds it twice.
        holders = [first, second]
        waiter = next(process for process in _readable(holders) if process.stderr.readline().strip())
        holder = next(process for process in holders if process is not waiter)
        assert holder.stdout.readline() == "held\n"
        assert waiter.poll() is None
        holder.communicate("done\n")
        assert waiter.stdout.readline() == "held\n"
        waiter.communicate("done\n")
    assert (first.returncode, second.returncode) == (0, 0)


def _readable(processes):
    """Yields processes as their stderr becomes readable."""
    import select

    ready, _, _ = select.select([process.stderr for process in processes], [], [], 30)
    return [process for process in processes if process.stderr in ready]


def test_a_lock_at_an_impossible_path_is_one_clear_line(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(EnvironmentFault, match="cannot write"),
        file_lock(tmp_path / "file" / "x.lock", message="?"),
    ):
        pass
