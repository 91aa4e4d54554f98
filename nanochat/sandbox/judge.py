"""Tests a function that runs in another process and cannot reach the tests.

The judge runs the tests. A call of the function sends its arguments to the program's process as plain values
and gets back the result as one, rebuilt here from builtin types. Nothing else crosses: no object whose `__eq__`
lies, no changed `assert`, no output mistaken for a verdict. The program has neither the tests in its memory nor the
pipe for the verdict, it may not debug or signal the judge, and if it ends early the tests fail.

Still possible: inferring from the arguments what the tests expect, and answering differently each time.
Not supported: tests that pass functions, or check an argument changed in place or the identity of a result.
A lazy result (a generator, a view, a range) arrives as an iterator over its items.
"""

import builtins
import json
import sys
import types
from contextlib import suppress
from typing import Any, TextIO

from nanochat.sandbox.guest import decode, encode

_MAX_REASON = 200  # characters
_EXCEPTIONS = {
    kind.__name__: kind
    for kind in vars(builtins).values()
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, UnicodeError)
}


class ProgramEndedError(BaseException):
    """The program does not answer. A BaseException, so that tests that catch Exception do not catch it."""


class RemoteFunction:
    """The program's function, called by value; its exceptions are raised here, by name."""

    def __init__(self, calls: TextIO, results: TextIO) -> None:
        """`calls` and `results` are the pipes to and from the program."""
        self._calls, self._results = calls, results
        self.ended = False

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Call it and wait for the result. Raises NotPlainError for arguments that cannot be sent."""
        with suppress(BrokenPipeError):  # then `receive` finds no answer either
            self._calls.write(json.dumps([encode(arguments), encode(keywords)]) + "\n")
            self._calls.flush()
        return self.receive()

    def receive(self) -> Any:
        """The value of the next answer."""
        try:
            outcome, *content = json.loads(self._results.readline())
            if outcome == "returned":
                [value] = map(decode, content)
                return value
            name, text = map(str, content)
        except (ValueError, RecursionError) as error:
            self.ended = True
            raise ProgramEndedError("the program ended, or wrote to the pipe for its answers") from error
        raise _EXCEPTIONS.get(name, RuntimeError)(text)


def failure(function: str, tests: str, calls: int, results: int) -> str:
    """Why `tests` fail, or "" if they pass; they are source code that calls the program's `function`.

    Args:
        calls, results: file descriptors of the pipes to and from the program.
    """
    with open(calls, "w", encoding="utf-8") as to_program, open(results, encoding="utf-8") as from_program:
        remote = RemoteFunction(to_program, from_program)
        module = types.ModuleType("tests")
        sys.modules["tests"] = module
        try:
            if not remote.receive():
                return f"{function} is not a function"
            module.__dict__[function] = remote
            exec(compile(tests, "tests.py", "exec"), module.__dict__)
        except BaseException as error:
            reason = f"{type(error).__name__}: {error}".removesuffix(": ")
            return reason[:_MAX_REASON]
        return "the program ended during the tests" if remote.ended else ""
