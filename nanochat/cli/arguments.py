"""What a command line may spell in more ways than its parser knows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import NoneType
from typing import get_args, get_type_hints

_NONE = "none"


def with_none(config_class: type, arguments: Sequence[str]) -> list[str]:
    """The arguments with `none`, in any case, as the parser spells it: the choice of that name, else None.

    For flags that may be empty; in a text or a path it stays as typed.
    """
    hints = get_type_hints(config_class)
    spelled = {f"--{name.replace('_', '-')}": _spelling(hint) for name, hint in hints.items()}
    found: list[str] = []
    before = ""
    for word in arguments:
        flag, equals, value = word.partition("=")
        if value.lower() == _NONE and (spelling := spelled.get(flag)):
            word = f"{flag}{equals}{spelling}"
        elif word.lower() == _NONE and (spelling := spelled.get(before)):
            word = spelling
        found.append(word)
        before = word
    return found


def _spelling(hint: object) -> str | None:
    """How the parser spells none for a type, or None if the word is a value like any other."""
    members = set(get_args(hint))
    choices = {choice for member in members for choice in get_args(member)}
    if NoneType not in members or members & {str, Path}:
        return None
    return _NONE if _NONE in choices else "None"
