"""The metrics file survives crashes and resumes, is always valid JSON."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.errors import EnvironmentFault
from nanochat.metrics import Metrics, open_metrics, read_metrics, rows_of
from nanochat.metrics_rows import EvalRow, PackingRow, SampleRow
from tests.conftest import full_disk


def _open(path: Path, **changes) -> Metrics:
    options = {"wandb_run": None, "config": None, "enabled": True, "resume": False, **changes}
    return open_metrics(path, "pretrain", **options)


def _steps(path: Path) -> list[int]:
    return [row.step for row in rows_of(path, SampleRow)]


def test_rows_come_back_in_order(tmp_path: Path):
    path = tmp_path / "runs" / "baserun" / "metrics.jsonl"
    with _open(path) as metrics:
        metrics.log(EvalRow(1, val_bpb=np.float32(2.5)))
        assert len(read_metrics(path)) == 1, "a row is on the disk as soon as it is logged"
        metrics.log(SampleRow(2, "go on", "two\nlines, äöü"))
    first, second = read_metrics(path)
    assert (first.stage, first.row) == ("pretrain", EvalRow(1, val_bpb=2.5))
    assert first.time <= second.time
    assert second.row == SampleRow(2, "go on", "two\nlines, äöü")


def test_a_line_is_one_flat_object(tmp_path: Path):
    with _open(tmp_path / "m.jsonl") as metrics:
        metrics.log(PackingRow(used=3, cropped=2, padded=1, epochs=0.5))
    (row,) = [json.loads(line) for line in (tmp_path / "m.jsonl").open()]
    assert list(row) == ["kind", "stage", "time", "used", "cropped", "padded", "epochs"]
    assert (row["kind"], row["stage"], row["epochs"]) == ("packing", "pretrain", 0.5)


def test_numbers_that_are_not_finite_stay_valid_json(tmp_path: Path):
    with _open(tmp_path / "m.jsonl") as metrics:
        metrics.log(EvalRow(1, val_bpb=math.nan, val_loss=math.inf))
    (row,) = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "m.jsonl").open()]
    assert row["val_bpb"] is None
    assert row["val_loss"] is None


@given(cut=st.integers(1, 60), text=st.text(max_size=10))
def test_a_line_torn_anywhere_costs_that_line_only(tmp_path_factory, cut: int, text: str):
    path = tmp_path_factory.mktemp("metrics") / "m.jsonl"
    with _open(path) as metrics:
        metrics.log(SampleRow(1, "", ""))
        metrics.log(SampleRow(2, text, "x" * 60))
    path.write_bytes(path.read_bytes()[:-cut])
    kept = [1, 2] if cut == 1 else [1]  # without its newline alone a row is still whole
    assert _steps(path) == kept
    with _open(path, resume=True) as metrics:
        metrics.log(SampleRow(3, "", ""))
    assert _steps(path) == [*kept, 3]


def test_lines_left_out_cost_one_warning_with_file_and_line(tmp_path: Path, capsys):
    path = tmp_path / "m.jsonl"
    with _open(path) as metrics:
        metrics.log(SampleRow(1, "", ""))
    with path.open("a") as file:
        file.write('null\n[1]\n{"kind": "sample"}\n')
    with _open(path, resume=True) as metrics:
        metrics.log(SampleRow(2, "", ""))
    assert _steps(path) == [1, 2]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {path}: left out 3 lines, the first is line 2 (")


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path):
    (tmp_path / "m.jsonl").mkdir()
    with pytest.raises(EnvironmentFault, match=r"cannot read .*m\.jsonl: Is a directory"):
        read_metrics(tmp_path / "m.jsonl")


def test_a_new_run_sets_the_old_file_aside(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    for step in range(3):
        with _open(path) as metrics:
            metrics.log(SampleRow(step, "", ""))
    assert _steps(path) == [2]
    assert _steps(tmp_path / "metrics.1.jsonl") == [0]
    assert _steps(tmp_path / "metrics.2.jsonl") == [1]


def test_a_full_disk_is_one_clear_line(tmp_path: Path):
    with (
        _open(tmp_path / "metrics.jsonl") as metrics,
        full_disk(after=1000),
        pytest.raises(EnvironmentFault, match=r"cannot write .*metrics.jsonl: [^\n]+; [^\n]+"),
    ):
        metrics.log(SampleRow(1, "", "x" * 2000))


def test_the_other_processes_write_nothing(tmp_path: Path):
    with _open(tmp_path / "runs" / "metrics.jsonl", enabled=False) as metrics:
        metrics.log(SampleRow(1, "", ""))
    assert list(tmp_path.glob("runs")) == []


def test_a_missing_file_has_no_rows(tmp_path: Path):
    assert read_metrics(tmp_path / "none.jsonl") == []
