"""Sampling parameters as typed words: `/set temperature 0.2`. Names and types are those of `SamplingParams`."""

import difflib
import shlex
from collections.abc import Iterator
from dataclasses import fields
from typing import get_origin, get_type_hints

from nanochat.config import from_json, parse_json, to_json
from nanochat.infer.sampler import SamplingParams

_NONE = "none"


def setting_names() -> list[str]:
    """The parameters that `/set` takes."""
    return [field.name for field in fields(SamplingParams)]


def settings(params: SamplingParams) -> Iterator[tuple[str, str]]:
    """(name, value) of every parameter, values in the form that `changed` takes."""
    for name, value in to_json(params).items():
        if value is None or value == []:
            yield name, _NONE
        elif isinstance(value, list) and all(isinstance(item, str) for item in value):
            yield name, shlex.join(word.replace("\n", "\\n").replace("\t", "\\t") for word in value)
        else:
            yield name, str(value)


def changed(params: SamplingParams, name: str, text: str) -> SamplingParams:
    """`params` with one parameter set to the value that `text` spells.

    `none` empties a parameter that can be empty. `stop` takes words, quoted as in a shell and with backslash escapes
    such as \\n, or a JSON list; `logit_bias` a JSON list of [token id, number].
    Raises ValueError for an unknown name, a wrong type and a value out of range.
    """
    check_name(name)
    hint = get_type_hints(SamplingParams)[name]
    value = _list(text) if get_origin(hint) is tuple else _scalar(text)
    try:
        return from_json(SamplingParams, {**to_json(params), name: value})
    except ValueError as error:
        raise ValueError(str(error).replace(f"{SamplingParams.__name__}.", "")) from None


def check_name(name: str) -> None:
    """Raise ValueError, with the nearest name, unless `name` is a parameter."""
    names = setting_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        guess = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
        raise ValueError(f"no parameter {name!r}: {guess}")


def _scalar(text: str) -> object:
    try:
        return None if text.lower() == _NONE else parse_json(text)
    except ValueError:
        return text  # refused by its type, or a word


def _list(text: str) -> object:
    if text.lower() == _NONE:
        return []
    try:
        return parse_json(text) if text.startswith("[") else _words(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is neither words nor a JSON list: {error}") from None


def _words(text: str) -> list[str]:
    lexer = shlex.shlex(text, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.escape, lexer.commenters = True, "", ""
    return [word.replace("\\n", "\n").replace("\\t", "\t") for word in lexer]
