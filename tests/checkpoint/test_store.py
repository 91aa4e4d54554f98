"""A checkpoint exists completely or not at all, whatever happens during the save."""

import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nanochat.checkpoint import serialize, store
from nanochat.errors import EnvironmentFault
from tests.conftest import made_up_meta


def _save(directory: Path, step: int, *, value: float | None = None, keep_last: int | None = None) -> Path:
    """Save a small checkpoint with contents derived from `value` (default: the step)."""
    value = float(step) if value is None else value
    model = {"wte.weight": torch.full((64, 8), value), "head": torch.arange(8.0) + value}
    optimizer = {"state": [{"exp_avg": torch.full((64, 8), -value)}]}
    meta = made_up_meta(step=step, config={"value": value})
    return store.save(directory, meta, model, optimizer, keep_last=keep_last)


def _value(directory: Path, step: int) -> float:
    """The value from which all parts of a checkpoint were derived."""
    model = store.load_model_state(directory, step)
    optimizer = store.load_optimizer_state(directory, step)
    values = {
        *model["wte.weight"].flatten().tolist(),
        model["head"][0].item(),
        *(-optimizer["state"][0]["exp_avg"]).flatten().tolist(),
        store.load_meta(directory, step).config["value"],
    }
    assert len(values) == 1, f"a mixture of checkpoints: {values}"
    return values.pop()


def _names(directory: Path) -> set[str]:
    return set(os.listdir(directory))


def _files(*steps: int) -> set[str]:
    return {f"step_{step:06d}_{part}.pt" for step in steps for part in ("model", "optim", "meta")}


def test_what_was_saved_comes_back(tmp_path: Path):
    directory = tmp_path / "new" / "folder"
    assert store.latest(directory) is None
    assert store.whole_steps(directory) == []
    meta_path = _save(directory, 10_000)
    assert meta_path == directory / "step_010000_meta.pt"
    assert _names(directory) == _files(10_000)
    assert store.latest(directory) == 10_000
    assert _value(directory, 10_000) == 10_000
    meta = store.load_meta(directory, 10_000)
    assert meta.step == 10_000
    assert meta.files["model"].size == (directory / "step_010000_model.pt").stat().st_size


def test_a_run_is_finished_when_its_newest_valid_checkpoint_is(tmp_path: Path, capsys):
    total = made_up_meta().plan.total_steps
    assert store.finished_step(tmp_path) is None
    _save(tmp_path, total - 1)
    assert store.finished_step(tmp_path) is None
    _save(tmp_path, total)
    assert store.finished_step(tmp_path) == store.finished_step(tmp_path, verify=False) == total
    weights = store.file_of(tmp_path, total, "model")
    weights.write_bytes(bytes(weights.stat().st_size))
    assert store.finished_step(tmp_path) is None
    assert "torn" in capsys.readouterr().err
    assert store.finished_step(tmp_path, verify=False) == total, "only the sizes are compared"
    weights.unlink()
    assert store.finished_step(tmp_path, verify=False) is None
    assert capsys.readouterr().err == ""


def test_steps_are_ordered_as_numbers(tmp_path: Path):
    for step in (999_999, 2, 1_000_000, 30):
        _save(tmp_path, step)
    assert store.whole_steps(tmp_path) == [2, 30, 999_999, 1_000_000]
    assert store.latest(tmp_path) == 1_000_000


def test_equal_runs_have_equal_checksums(tmp_path: Path):
    for run in ("a", "b"):
        _save(tmp_path / run, 5)
    assert store.load_meta(tmp_path / "a", 5) == store.load_meta(tmp_path / "b", 5)
    for name in _files(5):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_model_alone_has_no_optimizer_state(tmp_path: Path):
    _save(tmp_path, 1)
    store.save(tmp_path, made_up_meta(step=1), {"w": torch.ones(1)})
    assert _names(tmp_path) == _files(1) - {"step_000001_optim.pt"}
    with pytest.raises(ValueError, match="without its optim"):
        store.load_optimizer_state(tmp_path, 1)


def test_old_steps_go_after_the_commit_and_newer_ones_stay(tmp_path: Path):
    for step in (1, 2, 3, 9):
        _save(tmp_path, step)
    _save(tmp_path, 4, keep_last=2)
    assert store.whole_steps(tmp_path) == [3, 4, 9]
    assert _names(tmp_path) == _files(3, 4, 9)
    with pytest.raises(ValueError, match="keep_last must be at least 1"):
        _save(tmp_path, 5, keep_last=0)


def test_saving_a_step_again_replaces_it(tmp_path: Path):
    _save(tmp_path, 1)
    _save(tmp_path, 1, value=7.0)
    assert _names(tmp_path) == _files(1)
    assert _value(tmp_path, 1) == 7.0


@pytest.mark.parametrize("part", ["model", "optim", "meta"])
@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "missing", "other"])
def test_a_damaged_step_is_passed_over_with_a_warning(tmp_path: Path, capsys, part: str, damage: str):
    _save(tmp_path, 1)
    _save(tmp_path, 2)
    path = store.file_of(tmp_path, 2, part)
    content = path.read_bytes()
    middle = len(content) // 2
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {
                "cut": content[:-10],
                "flip": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
                "empty": b"",
                "other": store.file_of(tmp_path, 1, part).read_bytes(),
            }[damage]
        )
    assert store.latest(tmp_path) == 1
    assert _value(tmp_path, 1) == 1
    warned = capsys.readouterr().err
    if (part, damage) != ("meta", "missing"):
        assert "skipping the torn checkpoint of step 2" in warned
        assert warned.count("\n") == 1
        with pytest.raises(EnvironmentFault, match="is torn"):
            _value(tmp_path, 2)
    _save(tmp_path, 2)
    assert _value(tmp_path, 2) == 2
    assert _names(tmp_path) == _files(1, 2)


def test_without_a_complete_checkpoint_the_folder_is_named(tmp_path: Path):
    _save(tmp_path, 1)
    store.file_of(tmp_path, 1, "model").write_bytes(b"")
    with pytest.raises(EnvironmentFault, match=r"^no checkpoint in /.* is complete: restore the files"):
        store.require_latest(tmp_path)


def test_every_byte_of_the_meta_counts(tmp_path: Path, capsys):
    """A flipped byte is detected unless it is never read (padding, and fields that zip readers skip)."""
    path = _save(tmp_path, 1)
    content = path.read_bytes()
    meta = store.load_meta(tmp_path, 1)
    for position in range(0, len(content), 7):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x55]) + content[position + 1 :])
        if store.latest(tmp_path) is not None:
            assert store.load_meta(tmp_path, 1) == meta, position
        capsys.readouterr()


def test_a_step_that_is_not_there_names_those_that_are(tmp_path: Path):
    with pytest.raises(ValueError, match=r"no checkpoint of step 5 in .*: it has no checkpoint"):
        store.load_meta(tmp_path / "none", 5)
    _save(tmp_path, 1)
    _save(tmp_path, 2)
    with pytest.raises(ValueError, match=r"no checkpoint of step 5 in .*: it has 1, 2"):
        store.load_model_state(tmp_path, 5)


def test_a_full_disk_is_one_line_and_leaves_the_earlier_steps(tmp_path: Path):
    _save(tmp_path, 1)
    _save(tmp_path, 2)
    before = {name: (tmp_path / name).read_bytes() for name in _names(tmp_path)}
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = {"w": torch.zeros(100_000)}
    try:
        for limit, step, model, optimizer in [(10_000, 3, big, {}), (10_000, 2, {}, big), (600, 2, {}, {})]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
            with pytest.raises(EnvironmentFault, match="cannot write") as caught:
                store.save(tmp_path, made_up_meta(step=step), model, optimizer, keep_last=1)
            assert "\n" not in str(caught.value)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert {name: (tmp_path / name).read_bytes() for name in _names(tmp_path)} == before


def test_a_directory_that_cannot_be_is_found_before_any_work(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "run", Path("/proc/nanochat/run")):
        with pytest.raises(EnvironmentFault, match="cannot write"):
            store.ensure_writable(place, 0)
        with pytest.raises(EnvironmentFault, match="cannot write"):
            _save(place, 1)
    with pytest.raises(EnvironmentFault, match=r"GB free and the checkpoints need 1000000\.00 GB"):
        store.ensure_writable(tmp_path / "run", 10**15)
    store.ensure_writable(tmp_path / "run", 1000)
    assert _names(tmp_path / "run") == set()


def test_a_resumed_run_needs_no_room_for_the_checkpoints_it_has(tmp_path: Path, monkeypatch):
    for step in (1, 2):
        _save(tmp_path, step)
    there = sum(path.stat().st_size for path in tmp_path.iterdir())
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: SimpleNamespace(free=there // 2))
    store.ensure_writable(tmp_path, there * 3 // 2)
    with pytest.raises(EnvironmentFault, match="GB free"):
        store.ensure_writable(tmp_path, there * 3 // 2 + 1)


def _in_child(work: Callable[[], object]) -> int:
    """Fork a process that runs `work`; returns its id."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return child


def _was_killed(child: int) -> bool:
    """Wait for a child and return whether it was killed; it must not fail otherwise."""
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the child failed instead of being killed"
    return os.WIFSIGNALED(status)


def _die_at(call: int) -> None:
    """Kill this process just before its n-th change to the disk (every sixth write counts as one)."""
    calls = 0

    def dying(function: Callable, every: int = 1) -> Callable:
        seen = 0

        def wrapped(*args, **kwargs):
            nonlocal calls, seen
            seen += 1
            calls += seen % every == 0
            if calls == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return wrapped

    for name in ("replace", "fsync", "unlink"):
        setattr(os, name, dying(getattr(os, name)))
    serialize._Tally.write = dying(serialize._Tally.write, every=6)  # type: ignore[method-assign]


@pytest.mark.slow
@pytest.mark.parametrize(("step", "value"), [(4, 4.0), (3, 30.0)], ids=["a new step", "the same step again"])
def test_killed_at_any_moment_of_a_save_the_newest_whole_step_is_there(tmp_path: Path, capsys, step, value):
    for earlier in (2, 3):
        _save(tmp_path / "before", earlier)
    call, killed, outcomes = 0, True, set()
    while killed:
        call += 1
        directory = tmp_path / str(call)
        shutil.copytree(tmp_path / "before", directory)

        def save_and_die(directory: Path = directory, call: int = call) -> None:
            _die_at(call)
            _save(directory, step, value=value, keep_last=2)

        killed = _was_killed(_in_child(save_and_die))
        newest = store.latest(directory)
        assert newest is not None
        outcomes.add(_value(directory, newest))
        assert set(store.whole_steps(directory)) <= {2, 3, step}
        # The next save succeeds and cleans up after the killed one.
        _save(directory, 5, keep_last=1)
        assert _names(directory) == _files(5)
    assert call > 15, "the save was not interrupted where it changes the disk"
    assert outcomes == ({3, 4.0} if step == 4 else {2, 3, 30.0})
    assert capsys.readouterr().err == "", "a killed save leaves nothing that looks torn"


@pytest.mark.slow
def test_killed_at_random_times_the_newest_whole_step_is_there(tmp_path: Path):
    def save_for_ever(start: int) -> None:
        for step in range(start, start + 10_000):
            _save(tmp_path, step, keep_last=2)

    _save(tmp_path, 0)
    newest, kills, delays = 0, 0, random.Random(0)
    while kills < 10 or newest == 0:
        kills += 1
        child = _in_child(lambda start=newest + 1: save_for_ever(start))
        time.sleep(delays.uniform(0.01, 0.1))
        os.kill(child, signal.SIGKILL)
        assert _was_killed(child)
        found = store.latest(tmp_path)
        assert found is not None
        assert found >= newest
        assert _value(tmp_path, found) == found
        newest = found
