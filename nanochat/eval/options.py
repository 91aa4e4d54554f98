"""Checks of options shared by the evaluation verbs."""

from typing import Any


def require_positive(config: Any, *names: str) -> None:
    """Raise ValueError, naming the flag, for an option that is set and below 1."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
