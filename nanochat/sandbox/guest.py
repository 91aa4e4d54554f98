"""The first code of a sandboxed interpreter, in the same process as the untrusted program; it protects nothing.

    python -I -S guest.py PROGRAM                          runs PROGRAM as `__main__`
    python -I -S guest.py PROGRAM FUNCTION CALLS RESULTS   imports it and answers calls of FUNCTION (see judge.py)

CALLS and RESULTS are file descriptors. Both carry lines of JSON: a call is [arguments, keywords], an answer
["returned", value] or ["raised", name of the exception, its text]; a first answer, before any call, says
that the program was imported. Values are sent as [kind, content]; an "object" has no content and equals nothing.
"""

import builtins
import importlib
import json
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any

_MAX_TEXT = 400  # characters of an exception's text
_EXACT_NUMBERS = {("fractions", "Fraction"), ("decimal", "Decimal")}


class NotPlainError(TypeError):
    """A value that cannot be sent to another process."""


def encode(value: Any) -> list[Any]:
    """A value of a builtin type, or a subclass of one, as [kind, content]. Raises NotPlainError for any other."""
    for kind, content in _CONTENTS.items():
        if isinstance(value, kind):
            return [kind.__name__, content(value)]
    name = type(value).__name__
    if (type(value).__module__, name) in _EXACT_NUMBERS:
        return [name, str(value)]
    if isinstance(value, Iterable) and not isinstance(value, type):
        return ["iterator", _encode_all(value)]
    raise NotPlainError(f"not a plain value: {name}")


def _encode_all(values: Iterable[Any]) -> list[Any]:
    return [encode(value) for value in values]


_CONTENTS: dict[type, Callable[[Any], Any]] = {
    type(None): lambda _: None,
    bool: bool,
    int: hex,  # no limit on digits
    float: float.hex,
    complex: lambda z: [z.real.hex(), z.imag.hex()],
    str: str.__str__,
    bytes: bytes.hex,
    list: _encode_all,
    tuple: _encode_all,
    set: _encode_all,
    frozenset: _encode_all,
    dict: lambda d: _encode_all(pair for pair in dict.items(d)),
}


def decode(message: Any) -> Any:
    """The inverse of `encode`, building only plain builtin values. Raises ValueError for a malformed message."""
    try:
        kind, content = message
        return _VALUES[kind](content)
    except (ArithmeticError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not a value: {error}") from error


def _decode_all(messages: list[Any]) -> list[Any]:
    return [decode(message) for message in messages]


def _exact_number(module: str, name: str) -> Callable[[str], Any]:
    return lambda text: getattr(importlib.import_module(module), name)(text)


_VALUES: dict[str, Callable[[Any], Any]] = {
    "NoneType": lambda _: None,
    "bool": bool,
    "int": lambda digits: int(digits, 16),
    "float": float.fromhex,
    "complex": lambda parts: complex(*map(float.fromhex, parts)),
    "str": lambda text: "".join([text]),  # a TypeError if it is not text
    "bytes": bytes.fromhex,
    "list": _decode_all,
    "tuple": lambda items: tuple(_decode_all(items)),
    "set": lambda items: set(_decode_all(items)),
    "frozenset": lambda items: frozenset(_decode_all(items)),
    "dict": lambda pairs: dict(_decode_all(pairs)),
    "iterator": lambda items: iter(_decode_all(items)),
    "object": lambda _: object(),
    **{name: _exact_number(module, name) for module, name in _EXACT_NUMBERS},
}


def main() -> None:
    """Run the program, or answer calls of its function."""
    path, *service = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        source = file.read()
    sys.argv = [path]
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]  # as `site` defines them, which -S omits
    if service:
        function, calls, results = service
        _serve(source, path, function, int(calls), int(results))
    else:
        _run(source, path)


def _execute(source: str, path: str, name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__file__ = path
    sys.modules[name] = module
    exec(compile(source, path, "exec"), module.__dict__)
    return module


def _run(source: str, path: str) -> None:
    """Run as the main program; an error ends it with a traceback that starts in its own code."""
    try:
        _execute(source, path, "__main__")
    except Exception as error:
        trace = error.__traceback__ and error.__traceback__.tb_next and error.__traceback__.tb_next.tb_next
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        sys.exit(1)


def _serve(source: str, path: str, function: str, calls: int, results: int) -> None:
    """Import the program under a name other than `__main__`, then answer calls until the pipe closes."""
    with open(calls, encoding="utf-8") as questions, open(results, "w", encoding="utf-8") as answers:

        def answer(action: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> None:
            try:
                message = ["returned", encode(action(*arguments, **keywords))]
            except NotPlainError:
                message = ["returned", ["object", ""]]
            except Exception as error:
                message = ["raised", type(error).__name__, str(error)[:_MAX_TEXT]]
            answers.write(json.dumps(message) + "\n")
            answers.flush()

        answer(lambda: callable(getattr(_execute(source, path, "program"), function)))
        for question in questions:
            arguments, keywords = map(decode, json.loads(question))
            answer(getattr(sys.modules["program"], function), *arguments, **keywords)


if __name__ == "__main__":
    main()
