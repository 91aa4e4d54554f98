"""Frozen dataclasses to JSON and back, with types restored and unknown keys refused."""

from __future__ import annotations

import dataclasses
import json
import math
import types
from enum import Enum
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

MAX_DEPTH = 100  # of JSON from outside: whoever walks through it may recurse
_TOO_DEEP = f"nested more than {MAX_DEPTH} deep"
_SHOWN = 100  # characters of a value in a message
_SCALARS = frozenset((bool, int, float, str))


def to_json(value: Any) -> Any:
    """`value` as plain dicts, lists and scalars: from dataclasses (also nested), paths, enums and numpy numbers.

    Raises TypeError for any other type.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return to_json(value.value)
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, dict):
        return {str(to_json(key)): to_json(item) for key, item in value.items()}
    raise TypeError(f"{type(value).__name__} cannot be written as JSON: {value!r}")


def json_line(value: Any) -> str:
    """`value` as one line of valid JSON. NaN and infinities become null, since JSON has no such numbers."""
    return json.dumps(finite(to_json(value)), ensure_ascii=False, allow_nan=False)


def finite(value: Any) -> Any:
    """Plain containers with every number that is not finite replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [finite(item) for item in value]
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return value


def from_json(cls: type[T], data: Any, *, ignore_unknown: bool = False) -> T:
    """Build the dataclass `cls` from the output of `to_json`; missing fields take their defaults.

    Raises ValueError, naming the field, for a missing key without a default, a wrong type, or an unknown key (which
    a newer version may have written: `ignore_unknown` skips it).
    """
    return _dataclass(cls, data, cls.__name__, ignore_unknown)


def _dataclass(cls: type[T], data: Any, where: str, ignore_unknown: bool) -> T:
    if not isinstance(data, dict):
        raise ValueError(f"{where}: expected the fields of {cls.__name__}, got {_shown(data)}")
    fields = _fields(cls)  # type: ignore[arg-type]
    if not ignore_unknown and not data.keys() <= fields.keys():
        unknown = sorted(map(str, data.keys() - fields.keys()))
        raise ValueError(f"{where}: unknown {', '.join(unknown)} (known: {', '.join(fields)})")
    values = {
        name: _restore(field.hint, data[name], f"{where}.{name}", ignore_unknown)
        for name, field in fields.items()
        if field.init and name in data
    }
    missing = [name for name, field in fields.items() if field.required and name not in data]
    if missing:
        raise ValueError(f"{where}: missing {', '.join(missing)}")
    return cls(**values)


@dataclasses.dataclass(frozen=True)
class _Field:
    hint: Any
    init: bool
    required: bool


@cache
def _fields(cls: type) -> dict[str, _Field]:
    """A dataclass's fields. Annotations are text, whose evaluation takes a millisecond."""
    hints = get_type_hints(cls)
    return {
        field.name: _Field(hints[field.name], field.init, field.init and not _has_default(field))
        for field in dataclasses.fields(cls)
    }


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return not (field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING)


def _restore(hint: Any, value: Any, where: str, ignore_unknown: bool) -> Any:
    """`value` converted to the type `hint`. Raises ValueError if it does not fit."""
    if hint in _SCALARS and type(value) is hint:  # most fields
        return value
    origin, arguments = _parts(hint)
    if hint is Any:
        return value
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{where}: {_shown(value)} is none of {', '.join(map(repr, arguments))}")
        return value
    if origin in (Union, types.UnionType):
        return _restore_union(arguments, value, where, ignore_unknown)
    if origin in (list, tuple, dict) or hint in (list, tuple, dict):
        return _restore_container(origin or hint, arguments, value, where, ignore_unknown)
    if dataclasses.is_dataclass(hint):
        return _dataclass(hint, value, where, ignore_unknown)  # type: ignore[arg-type]
    return _restore_scalar(hint, value, where)


@cache
def _parts(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """`list[int]` → list, (int,)."""
    return get_origin(hint), get_args(hint)


def _restore_union(members: tuple[Any, ...], value: Any, where: str, ignore_unknown: bool) -> Any:
    if value is None and type(None) in members:
        return None
    if type(value) in _SCALARS and type(value) in members:
        return value
    problems = []
    # Exact types first: under `int | float` 1 stays an int, under `str | Path` a string stays a string.
    for member in sorted(members, key=lambda member: type(value) is not member):
        if member is not type(None):
            try:
                return _restore(member, value, where, ignore_unknown)
            except ValueError as error:
                problems.append(str(error))
    raise ValueError("; ".join(dict.fromkeys(problems)))


def _restore_container(
    kind: type, arguments: tuple[Any, ...], value: Any, where: str, ignore_unknown: bool
) -> Any:
    if kind is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{where}: expected a table, got {_shown(value)}")
        key_hint, item_hint = arguments or (Any, Any)
        return {
            _key(key_hint, key, where): _restore(item_hint, item, f"{where}[{key!r}]", ignore_unknown)
            for key, item in value.items()
        }
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{where}: expected a list, got {_shown(value)}")
    if not arguments:
        hints = [Any] * len(value)
    elif kind is list or arguments[-1] is Ellipsis:
        hints = [arguments[0]] * len(value)
    elif len(arguments) == len(value):
        hints = list(arguments)
    else:
        raise ValueError(f"{where}: expected {len(arguments)} items, got {len(value)}")
    restored = (
        _restore(hint, item, f"{where}[{index}]", ignore_unknown)
        for index, (hint, item) in enumerate(zip(hints, value, strict=True))
    )
    return kind(restored)


def _key(hint: Any, key: Any, where: str) -> Any:
    """A dict key converted to `hint`; JSON keys are strings, so int keys are parsed."""
    if hint is int and isinstance(key, str):
        try:
            return int(key)
        except ValueError:
            raise ValueError(f"{where}: expected an integer key, got {_shown(key)}") from None
    return _restore(hint, key, where, ignore_unknown=False)


def _restore_scalar(hint: Any, value: Any, where: str) -> Any:
    if isinstance(hint, type) and issubclass(hint, Enum):
        try:
            return hint(value)
        except ValueError:
            known = ", ".join(repr(member.value) for member in hint)
            raise ValueError(f"{where}: {_shown(value)} is none of {known}") from None
    if isinstance(hint, type) and issubclass(hint, Path) and isinstance(value, (str, Path)):
        return hint(value)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"{where}: {_shown(value)} is too large for a float") from None
    if hint in (bool, str, float, types.NoneType) and type(value) is hint:
        return value
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError(f"{where}: expected {getattr(hint, '__name__', hint)}, got {_shown(value)}")


def parse_json(text: str | bytes) -> Any:
    """`json.loads` of text from outside. Raises ValueError, also for text nested more than MAX_DEPTH deep."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None
    openings = (
        text.count("[") + text.count("{") if isinstance(text, str) else text.count(b"[") + text.count(b"{")
    )
    if openings > MAX_DEPTH and _deeper_than(MAX_DEPTH, value):
        raise ValueError(_TOO_DEEP)
    return value


def _deeper_than(depth: int, value: Any) -> bool:
    """Whether containers stand in each other more than `depth` deep."""
    level = [value]
    for _ in range(depth + 1):
        inside = [
            item.values() if isinstance(item, dict) else item
            for item in level
            if isinstance(item, (dict, list))
        ]
        level = [child for children in inside for child in children]
        if not inside:
            return False
    return True


def _shown(value: Any) -> str:
    """A value short enough for one line of a message."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
