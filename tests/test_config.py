"""Configs survive a round trip through JSON; unknown keys and wrong types are refused."""

import json
import re
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nanochat
from nanochat.config import from_json, json_line, parse_json, to_json


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Inner:
    name: str = "inner"
    where: Path = Path("/tmp")
    policy: Literal["contiguous", "bestfit-pad", 3] = "contiguous"


@dataclass(frozen=True)
class Outer:
    depth: int
    rate: float = 0.5
    fp8: bool = False
    limit: float | None = None
    inner: Inner = Inner()
    spare: Inner | None = None
    window: tuple[int, ...] = (1, 2)
    pair: tuple[str, Path] = ("a", Path("b"))
    colours: list[Colour] = field(default_factory=list)
    table: dict[str, float] = field(default_factory=dict)
    by_step: dict[int, str] = field(default_factory=dict)
    anything: Any = None
    derived: int = field(init=False, default=7)


_INNERS = st.builds(
    Inner,
    name=st.text(),
    where=st.builds(Path, st.text("abc/", min_size=1)),
    policy=st.sampled_from([3, "contiguous"]),
)
_OUTERS = st.builds(
    Outer,
    depth=st.integers(),
    rate=st.floats(allow_nan=False, allow_infinity=False),
    fp8=st.booleans(),
    limit=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    inner=_INNERS,
    spare=st.none() | _INNERS,
    window=st.lists(st.integers()).map(tuple),
    colours=st.lists(st.sampled_from(Colour)),
    table=st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False)),
    by_step=st.dictionaries(st.integers(), st.text()),
)


@given(_OUTERS)
def test_a_round_trip_through_json_is_the_identity(config: Outer):
    assert from_json(Outer, json.loads(json.dumps(to_json(config)))) == config


def test_fields_left_out_take_their_defaults():
    assert from_json(Outer, {"depth": 4}) == Outer(depth=4)


def test_whole_numbers_restore_as_floats_where_floats_are_declared():
    restored = from_json(Outer, {"depth": 4, "rate": 1})
    assert isinstance(restored.rate, float)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({}, "missing depth"),
        ({"depth": 4, "dpeth": 4}, "unknown dpeth (known: depth, rate"),
        ({"depth": 4, "inner": {"nam": "x"}}, "Outer.inner: unknown nam"),
        ({"depth": "4"}, "Outer.depth: expected int, got '4'"),
        ({"depth": True}, "Outer.depth: expected int"),
        ({"depth": 4, "fp8": 1}, "Outer.fp8: expected bool"),
        ({"depth": 4, "limit": "x"}, "Outer.limit: expected float"),
        ({"depth": 4, "inner": {"policy": "best"}}, "'best' is none of 'contiguous', 'bestfit-pad', 3"),
        ({"depth": 4, "colours": ["green"]}, "Outer.colours[0]: 'green' is none of 'red', 'blue'"),
        ({"depth": 4, "window": 3}, "Outer.window: expected a list"),
        ({"depth": 4, "window": [1, "x"]}, "Outer.window[1]: expected int"),
        ({"depth": 4, "pair": ["a"]}, "Outer.pair: expected 2 items, got 1"),
        ({"depth": 4, "table": []}, "Outer.table: expected a table"),
        ({"depth": 4, "by_step": {"x": "y"}}, "expected an integer key, got 'x'"),
        ({"depth": 4, "inner": 3}, "Outer.inner: expected the fields of Inner, got 3"),
    ],
)
def test_bad_data_names_the_field(data: dict, says: str):
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        from_json(Outer, data)
    assert "\n" not in str(caught.value)


def test_a_union_keeps_the_exact_type():
    @dataclass(frozen=True)
    class Either:
        value: float | int | str

    for value in (1, 1.0, "1"):
        assert type(from_json(Either, {"value": value}).value) is type(value)


def test_numpy_scalars_become_numbers():
    assert to_json({"a": np.float32(0.5), "b": np.int64(3)}) == {"a": 0.5, "b": 3}
    assert type(to_json(np.int64(3))) is int


def test_types_without_json_are_refused():
    with pytest.raises(TypeError, match="object cannot be written as JSON"):
        to_json({"a": object()})


@pytest.mark.parametrize("deep", ["[" * 5000, "[" * 101 + "]" * 101, '{"a":' * 101 + "1" + "}" * 101])
def test_json_nested_too_deeply_is_a_value_error(deep: str):
    for text in (deep, deep.encode()):
        with pytest.raises(ValueError, match="nested more than 100 deep"):
            parse_json(text)


def test_json_that_is_wide_or_holds_many_brackets_in_text_is_read():
    wide = [[[]] * 300, {"text": "[{" * 300}, [[] for _ in range(300)]]
    assert parse_json(json.dumps(wide)) == wide
    deep = json.loads("[" * 100 + "]" * 100)
    assert parse_json(json.dumps(deep)) == deep


def test_json_from_outside_is_read_in_one_place():
    """`parse_json` guards against deep nesting, so that nothing else calls json.loads.

    The processes of the sandbox import nothing of ours, to start quickly; the judge catches RecursionError itself.
    """
    package = Path(nanochat.__file__).parent
    callers = [
        path for path in package.rglob("*.py") if re.search(r"\bjson\.loads?\(|\.json\(\)", path.read_text())
    ]
    alone = {package / "sandbox" / name for name in ("jail.py", "guest.py", "judge.py")}
    assert set(callers) == {package / "config.py", *alone}


def test_fields_of_a_newer_version_are_refused_or_passed_over():
    data = {"depth": 3, "new": 1, "inner": {"name": "mine", "new": 2}}
    with pytest.raises(ValueError, match="unknown new"):
        from_json(Outer, data)
    assert from_json(Outer, data, ignore_unknown=True) == Outer(3, inner=Inner("mine"))


def test_a_number_beyond_floats_is_named_in_a_short_line():
    with pytest.raises(ValueError, match=r"Outer\.rate: 1000.*…") as caught:
        from_json(Outer, {"depth": 1, "rate": 10**400})
    assert len(str(caught.value)) < 200


def test_json_line_is_one_valid_line_whatever_the_numbers():
    line = json_line({"loss": float("nan"), "deep": [{"x": float("inf")}], "text": "a\nb"})
    assert "\n" not in line
    assert json.loads(line) == {"loss": None, "deep": [{"x": None}], "text": "a\nb"}
