"""Bounds of numeric flags, checked when a config is made: before any work starts."""

import math
from collections.abc import Callable
from typing import Any

_FRACTION = "above 0 and below 1"


def require_positive(config: Any, *names: str) -> None:
    """Raise ValueError, naming the flag, for an option that is set and not above 0 or not finite."""
    _require(config, names, lambda value: value > 0, "at least 1", "a number above 0")


def require_not_negative(config: Any, *names: str) -> None:
    """Raise ValueError, naming the flag, for an option that is set and negative or not finite."""
    _require(config, names, lambda value: value >= 0, "at least 0", "a number of at least 0")


def require_share(config: Any, *names: str) -> None:
    """Raise ValueError, naming the flag, for an option that is set and not a share from 0 to 1."""
    _require(config, names, lambda value: 0 <= value <= 1, "0 or 1", "between 0 and 1")


def require_fraction(config: Any, *names: str) -> None:
    """Raise ValueError, naming the flag, for an option that is set and not above 0 and below 1."""
    _require(config, names, lambda value: 0 < value < 1, _FRACTION, _FRACTION)


def _require(
    config: Any, names: tuple[str, ...], fits: Callable[[float], bool], whole: str, real: str
) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not (math.isfinite(value) and fits(value)):
            expected = whole if isinstance(value, int) else real
            raise ValueError(f"--{name.replace('_', '-')} must be {expected}, not {value:g}")
