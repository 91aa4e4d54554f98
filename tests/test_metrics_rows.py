"""Rows of metrics: what is written is read back the same, what is malformed is a ValueError, old files still read."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat import hardware
from nanochat.config import json_line
from nanochat.metrics import LoggedRow, parse_row
from nanochat.metrics_rows import (
    KINDS,
    CompressionRow,
    ConfigRow,
    DomainRates,
    DoneRow,
    EvalRow,
    PackingRow,
    RolloutRow,
    Row,
    SampleRow,
    StageRow,
    TasksRow,
    TokenizerRow,
    TrackedRow,
    TrainRow,
)

TRAIN = TrainRow(1, 9, 2048, 2.5, 1.0, None, 5e3, None, 0.1, 0)
ROWS: tuple[Row, ...] = (
    ConfigRow(
        {"depth": 4, "deep": {"list": [1, None]}}, hardware.describe(), hardware.software(), 1, {"a": 1}
    ),
    TRAIN,
    EvalRow(1, val_bpb=1.5, core_partial=True),
    RolloutRow(1, 2, 8, 0.5, {"answer": 0.5}, *[0.1] * 9, None, *[1.5] * 6),
    SampleRow(1, "a prompt", "a text\nof two lines"),
    TasksRow(1, {"facts": 0.5}, {"facts": 10}, {"facts": 0.25}, chatcore=0.1),
    PackingRow(10, 1, 2, 0.5),
    TokenizerRow("tok300.tiktoken", "00ff", 300, 40, 1000, 2.5, 0.1, 1 << 20),
    CompressionRow("00ff", {"code": 10}, (DomainRates("ours", 300, {"code": 1.9}),), ("GPT-2",)),
    StageRow("sft", "abc", ("sft", "--depth=1"), "done", 1.5),
    TrackedRow("run1", "trackio"),
    DoneRow(1.5, step=9),
)


def _line(row: Row, **changes: Any) -> bytes:
    return json_line({**LoggedRow("pretrain", 1.0, row).to_json(), **changes}).encode()


def test_every_kind_is_tried() -> None:
    assert [type(row) for row in ROWS] == list(KINDS.values())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.kind)
def test_what_is_written_is_read_back(row: Row) -> None:
    assert parse_row(_line(row)) == LoggedRow("pretrain", 1.0, row)


@pytest.mark.parametrize("kind", KINDS.values())
def test_no_field_hides_what_the_log_adds(kind: Any) -> None:
    assert not {"kind", "stage", "time"} & {field.name for field in dataclasses.fields(kind)}


def test_what_a_newer_version_added_is_passed_over() -> None:
    row = parse_row(_line(TRAIN, a_new_figure=[1, 2]))
    assert row.row == TRAIN


def test_a_figure_that_is_no_field_is_refused_on_writing() -> None:
    with pytest.raises(ValueError, match="unknown val_bpd"):
        EvalRow.of(1, {"val_bpd": 1.0})
    assert EvalRow.of(1, {"val_bpb": 1.0}) == EvalRow(1, val_bpb=1.0)


def test_a_run_tracked_by_wandb_had_a_kind_of_its_own() -> None:
    assert parse_row(_line(TrackedRow("run1"), kind="wandb")).row == TrackedRow("run1", "wandb")


def test_the_length_of_an_older_plan_has_todays_name() -> None:
    plan = {"model": {"sequence_len": 256, "n_layer": 3}}
    row = parse_row(_line(ConfigRow({}, plan=plan))).row
    assert isinstance(row, ConfigRow)
    assert row.plan == {"model": {"max_seq_len": 256, "n_layer": 3}}
    newer = ConfigRow({}, plan={"model": {"sequence_len": 1, "max_seq_len": 2}})
    assert parse_row(_line(newer)).row == newer
    odd = ConfigRow({}, plan={"model": None})
    assert parse_row(_line(odd)).row == odd


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"null", "got None"),
        (b"[1]", "got [1]"),
        (b'{"stage": "sft", "time": 1.0}', "missing kind"),
        (_line(TRAIN, kind="trail"), "unknown kind 'trail'"),
        (_line(TRAIN, kind=["train"]), "kind: expected str"),
        (_line(TRAIN, time=None), "time: expected float"),
        (_line(TRAIN, loss="low"), "TrainRow.loss: expected float, got 'low'"),
        (_line(TRAIN, step=True), "TrainRow.step: expected int, got True"),
        (_line(TRAIN, tokens=2**63), "more than 64 bits"),
        (_line(TRAIN, loss=1e300), "larger than any float32"),
        (_line(TRAIN, a_new_figure=1e300), "larger than any float32"),
        (_line(TRAIN).replace(b"2.5", b"1" + b"0" * 5000), "limit"),
        (_line(TRAIN, lr="NaN").replace(b'"NaN"', b"NaN"), "TrainRow.lr: expected float, got None"),
        (_line(SampleRow(1, "\\ud800", "")).replace(b"\\\\u", b"\\u"), "surrogates not allowed"),
        (b"[" * 5000, "nested"),
        (b"[" * 200 + b"]" * 200, "nested more than 100 deep"),
        (b'{"kind": "tra', "Unterminated"),
        (b"\xff\xfe\x00", "not UTF-8 text"),
        (b"", "Expecting value"),
    ],
)
def test_what_is_no_row_says_why_in_a_line(line: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says.replace("[", r"\[")) as caught:
        parse_row(line)
    assert len(str(caught.value)) < 300


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(data=st.data())
def test_a_mutated_row_is_read_typed_or_refused(data: st.DataObject) -> None:
    row = data.draw(st.sampled_from(ROWS))
    table = LoggedRow("pretrain", 1.0, row).to_json()
    table[data.draw(st.sampled_from(list(table)))] = data.draw(JSON)
    line = json.dumps(table).encode()
    try:
        read = parse_row(line)
    except ValueError:
        return
    assert parse_row(_line(read.row)).row == read.row
