"""Services beside the metrics file: who asks for which, what they receive, and that none ends a run."""

import json
import math
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from nanochat.flags import Tracker, default_track
from nanochat.metric_sinks import SINKS
from nanochat.metrics import Metrics, open_metrics, read_metrics, rows_of
from nanochat.metrics_rows import ConfigRow, EvalRow, PackingRow, SampleRow, TasksRow, TrackedRow, TrainRow

CONFIG = ConfigRow({"depth": 4})


def _open(path: Path, **changes: Any) -> Metrics:
    options = {"wandb_run": None, "config": CONFIG, "enabled": True, "resume": False, **changes}
    return open_metrics(path, "pretrain", **options)


class _FakeWandb(types.ModuleType):
    """What of wandb's interface we use, and a record of it (the real one wants an account or a service)."""

    def __init__(self, broken: bool = False):
        super().__init__("wandb")
        self.broken, self.starts, self.rows, self.finished = broken, [], [], 0
        self.id = "abc123"

    def init(self, **options):
        print("wandb: hello")
        if self.broken:
            raise ConnectionError("no route to host")
        self.starts.append(options)
        return self

    def define_metric(self, *_, **__):
        pass

    def log(self, row):
        self.rows.append(row)

    def finish(self):
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> _FakeWandb:
    fake = _FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_the_flag_offers_what_the_table_has():
    assert set(SINKS) == set(get_args(Tracker))


@pytest.mark.parametrize(
    ("flag", "variable", "track", "name"),
    [
        (None, None, (), None),
        ("dummy", "mine", (), None),
        (None, "dummy", (), None),
        (None, "mine", (), "mine"),
        ("a", "b", (), "a"),
        (None, None, ("wandb",), "baserun"),
        (None, "dummy", ("wandb", "wandb"), "baserun"),
        ("a", None, ("wandb",), "a"),
    ],
)
def test_who_asks_for_wandb(tmp_path: Path, monkeypatch, wandb, flag, variable, track, name):
    if variable is not None:
        monkeypatch.setenv("WANDB_RUN", variable)
    _open(tmp_path / "baserun" / "metrics.jsonl", wandb_run=flag, track=track).close()
    assert [start["name"] for start in wandb.starts] == ([] if name is None else [name])
    assert wandb.finished == len(wandb.starts)


def test_the_variable_names_services(monkeypatch):
    assert default_track() == ()
    monkeypatch.setenv("NANOCHAT_TRACK", "trackio, tensorboard")
    assert default_track() == ("trackio", "tensorboard")
    monkeypatch.setenv("NANOCHAT_TRACK", "trackio,wandbb")
    with pytest.raises(
        ValueError, match="NANOCHAT_TRACK names 'wandbb': choose from wandb, trackio, tensorboard"
    ):
        default_track()


def test_wandb_gets_the_numbers_and_a_resumed_run_continues_in_the_same_place(tmp_path: Path, wandb, capsys):
    with _open(tmp_path / "m.jsonl", wandb_run="mine") as metrics:
        metrics.log(SampleRow(3, "no number", "so nothing"))
        metrics.log(EvalRow(3, val_bpb=math.nan, val_loss=1.5))
        metrics.log(TasksRow(3, scores={"facts": 0.5}, counts={}, baselines={}))
    assert wandb.rows == [{"step": 3, "eval/val_loss": 1.5}, {"step": 3, "tasks/scores/facts": 0.5}]
    assert wandb.starts[0]["config"] == {"depth": 4}
    _open(tmp_path / "m.jsonl", wandb_run="mine", resume=True).close()
    assert [start["id"] for start in wandb.starts] == [None, "abc123"]
    assert capsys.readouterr().out == "", "stdout is for results"


def test_a_service_that_fails_to_start_does_not_end_the_run(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", _FakeWandb(broken=True))
    with _open(tmp_path / "m.jsonl", wandb_run="mine") as metrics:
        metrics.log(SampleRow(1, "", ""))
    assert "no route to host" in capsys.readouterr().err
    assert [type(entry.row) for entry in read_metrics(tmp_path / "m.jsonl")] == [ConfigRow, SampleRow]


@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_a_missing_service_costs_one_warning(tmp_path: Path, monkeypatch, capsys, tracker):
    monkeypatch.setitem(sys.modules, tracker, None)
    with _open(tmp_path / "m.jsonl", track=(tracker,)) as metrics:
        metrics.log(EvalRow(1, val_bpb=1.5))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"run `uv pip install -e '.[{tracker}]'` in the clone")
    assert [type(entry.row) for entry in read_metrics(tmp_path / "m.jsonl")] == [ConfigRow, EvalRow]


def test_a_service_that_fails_midway_costs_one_warning(tmp_path: Path, monkeypatch, wandb, capsys):
    with _open(tmp_path / "m.jsonl", wandb_run="mine") as metrics:
        monkeypatch.setattr(wandb, "log", lambda numbers: 1 / 0, raising=False)
        for step in (1, 2):
            metrics.log(EvalRow.of(step, {"val_bpb": 1.5}))
    assert capsys.readouterr().err.count("wandb stopped") == 1
    assert [row.step for row in rows_of(tmp_path / "m.jsonl", EvalRow)] == [1, 2]


# ---- the real packages, which keep their data on this machine


@pytest.fixture(scope="module", autouse=True)
def _trackio_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One for all tests: trackio reads the variable when it is imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(tmp_path_factory.mktemp("trackio")))
        yield


def _trackio(folder: Path) -> list[tuple[int, str, float]]:
    from trackio.sqlite_storage import SQLiteStorage

    (run,) = (run for run in SQLiteStorage.get_run_records("nanochat") if run["name"] == "baserun-pretrain")
    rows = SQLiteStorage.get_logs("nanochat", run["name"], run_id=run["id"])
    return [(row["step"], name, value) for row in rows for name, value in row.items() if "/" in name]


def _tensorboard(folder: Path) -> list[tuple[int, str, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard" / "pretrain")).Reload()
    return [(e.step, name, e.value) for name in events.Tags()["scalars"] for e in events.Scalars(name)]


def _of_the_file(path: Path) -> Iterator[tuple[int, str, float]]:
    for line in path.read_text().splitlines():
        row = json.loads(line)
        if row["kind"] in ("train", "eval"):
            figures = {name: value for name, value in row.items() if isinstance(value, int | float)}
            for name in figures.keys() - {"time", "step"}:
                yield row["step"], f"{row['kind']}/{name}", figures[name]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tracker", "read", "repeats"), [("trackio", _trackio, True), ("tensorboard", _tensorboard, False)]
)
def test_a_service_has_what_the_file_has(
    tmp_path: Path, capsys, tracker: Tracker, read: Callable[[Path], Any], repeats: bool
):
    pytest.importorskip(tracker)
    path = tmp_path / "baserun" / "metrics.jsonl"
    for steps in ((1, 2, 3), (3, 4)):  # interrupted after step 3, resumed from the checkpoint of step 2
        with _open(path, track=(tracker,), resume=steps[0] > 1) as metrics:
            for step in steps:
                metrics.log(TrainRow(step, 9, 2048, 0.1 * step, 1.0, None, 5e3, None, 0.1, 0))
                metrics.log(EvalRow(step, val_bpb=math.nan, val_loss=1.5))
    assert capsys.readouterr().out == "", "stdout is for results"
    assert {row.tracker for row in rows_of(path, TrackedRow)} == {tracker}
    expected, found = sorted(_of_the_file(path)), sorted(read(path.parent))
    expected = expected if repeats else sorted(set(expected))
    assert [(step, name) for step, name, _ in found] == [(step, name) for step, name, _ in expected]
    assert [value for *_, value in found] == pytest.approx([value for *_, value in expected])


@pytest.mark.slow
def test_a_stage_that_shares_the_file_has_a_run_of_its_own(tmp_path: Path):
    pytest.importorskip("trackio")
    path = tmp_path / "shared" / "metrics.jsonl"
    for stage, resume in (("pretrain", False), ("eval-chat", True), ("pretrain", True)):
        options = {"wandb_run": None, "config": None, "enabled": True, "track": ("trackio",)}
        with open_metrics(path, stage, resume=resume, **options) as metrics:
            metrics.log(PackingRow(used=3, cropped=2, padded=1, epochs=0.5))
    ids = [row.id for row in rows_of(path, TrackedRow)]
    assert ids == ["shared-pretrain", "shared-eval-chat", "shared-pretrain"]
