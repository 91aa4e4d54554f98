"""The command line: look up the verb, parse its config, open what it needs, run it, report errors in one line.

Exit status: 0 success, 1 the machine failed, 2 the command was wrong, 130 interrupted. A traceback is a bug.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from nanochat import __version__
from nanochat.cli.arguments import with_none
from nanochat.cli.verbs import GROUPS, VERBS, Verb
from nanochat.config import json_line
from nanochat.errors import EnvironmentFault
from nanochat.paths import default_paths, expanded

_HELP = ("-h", "--help")
_EPILOGUE = """\
Options:
  --version            print the version

Options of every verb:
  --help               list its options and their defaults
  --json               print the result as one JSON object on the last line of stdout

Environment:
  NANOCHAT_BASE_DIR    folder for all data and results (default ~/.cache/nanochat)
  WANDB_RUN            log to Weights & Biases under this name ("dummy": do not log)
  NANOCHAT_TRACK       log to these services: wandb, trackio, tensorboard (separated by commas)
  OMP_NUM_THREADS      CPU threads per process
  NANOCHAT_DEBUG=1     show the traceback of every error"""


_SPINS = "5000"
"""A tenth of a millisecond or so: as fast on an idle machine, six to ten times as fast beside one busy program
(docs/log.md)."""
_WRONG_VALUE = re.compile(
    r"Error parsing (?P<flag>\S+): (no type matching \S+ could be instantiated from \[(?P<one>[^]]*)\]"
    r"|(invalid literal for int\(\) with base 10|could not convert string to float): (?P<other>'[^']*'))"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: this process's) and return its exit status."""
    _let_waiting_threads_sleep()
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130
    except BrokenPipeError:
        # The reader of our stdout is gone. Python flushes stdout at exit, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ValueError as error:
        _complain(f"error: {error}")
        return 2
    except EnvironmentFault as error:
        if error.speaks:
            _complain(f"error: {error}")
        return 1
    except OSError as error:
        _complain(f"error: {_describe(error)}")
        return 1
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        _complain("error: out of memory: use a smaller --device-batch-size, or a smaller model or context")
        return 1


def _let_waiting_threads_sleep() -> None:
    """PyTorch's threads wait for each other at every operator; GNU's OpenMP lets them spin for milliseconds by default.

    As soon as anything else runs, that keeps the cores from those that are waited for. Read when torch is imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in (*_HELP, "help"):
        print(overview())
        return 0
    if arguments[0] == "--version":
        print(f"nanochat {__version__}")
        return 0
    name = _verb_of(arguments)
    if name is None:
        return _explain_group(arguments)
    return _run(name, VERBS[name], arguments[len(name) :])


def parse_command(words: Sequence[str]) -> Any:
    """The config that a command (without the program's name) spells. Raises ValueError as the command would."""
    name = _verb_of(words)
    assert name is not None, words
    verb = VERBS[name]
    config_class = getattr(importlib.import_module(verb.module), verb.config)
    return _parse(name, verb, config_class, list(words[len(name) :]))


def _verb_of(words: Sequence[str]) -> tuple[str, ...] | None:
    return next((tuple(words[:n]) for n in (2, 1) if tuple(words[:n]) in VERBS), None)


def _explain_group(arguments: list[str]) -> int:
    """List the verbs of a group that was named alone. Raises ValueError, with the nearest verb, for anything else."""
    group, rest = arguments[0], arguments[1:]
    if group in GROUPS and (not rest or rest[0] in _HELP):
        print(_listing(group), file=sys.stdout if rest else sys.stderr)
        return 0 if rest else 2
    names = [" ".join(name) for name in VERBS if group not in GROUPS or name[0] == group]
    score = {name: _likeness(arguments, name) for name in (*names, *(GROUPS if group not in GROUPS else ()))}
    nearest = max(score, key=score.__getitem__)
    guess = f": did you mean `nanochat {nearest}`?" if score[nearest] >= 0.6 else ""
    words, where = (
        (f"{group} {rest[0]}", f"nanochat {group}") if group in GROUPS else (group, "nanochat --help")
    )
    raise ValueError(f"unknown verb {words!r}{guess} (`{where}` lists the verbs)")


def _likeness(arguments: list[str], name: str) -> float:
    """Similarity, from 0 to 1, of the first words of the command line to a verb of the same number of words."""
    typed = " ".join(arguments[: len(name.split())])
    return difflib.SequenceMatcher(None, typed, name).ratio()


def _run(name: tuple[str, ...], verb: Verb, arguments: list[str]) -> int:
    wants_json = "--json" in arguments
    if wants_json:
        arguments.remove("--json")
    module = importlib.import_module(verb.module)
    config = _parse(name, verb, getattr(module, verb.config), arguments)
    stage: Callable[[Any, Any], Any] = getattr(module, verb.function)
    with _OPENERS[verb.needs](config) as needed:
        result = stage(config, needed)
    if wants_json and _rank() == 0:
        print(json_line(result), flush=True)
    return 0


def _parse(name: tuple[str, ...], verb: Verb, config_class: type, arguments: list[str]) -> Any:
    """The config given by `arguments`. Raises ValueError for invalid ones, SystemExit(0) for --help."""
    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return _at_home(
                tyro.cli(
                    config_class,
                    prog=" ".join(("nanochat", *name)),
                    description=f"{verb.help}.",
                    args=_with_repeats_joined(config_class, with_none(config_class, arguments)),
                )
            )
    except SystemExit as end:
        if not end.code:
            raise
        problem = _without_box(said.getvalue()).removeprefix(f"Error parsing {config_class.__name__}: ")
    raise ValueError(_plain(problem))


def _at_home(config: Any) -> Any:
    """The config with `~` expanded in its paths, which shells leave as it is after `--out=`."""
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    return replace(config, **{n: expanded(v) for n, v in values.items() if isinstance(v, Path)})


def _plain(problem: str) -> str:
    """Tyro's message about a value of the wrong type, without what only its author understands."""
    found = _WRONG_VALUE.match(problem)
    if found is None:
        return problem
    kind = "a whole number" if "int()" in problem else "a number"
    return f"{found['flag'].rpartition('/')[2]} must be {kind}, not {found['one'] or found['other']}"


def _with_repeats_joined(config_class: type, arguments: list[str]) -> list[str]:
    """The arguments with `--set A --set B` as `--set A B`, because the parser would keep the last one only.

    For flags that take any number of values; the last of other repeated flags counts.
    """
    hints = get_type_hints(config_class)
    lists = {f"--{name.replace('_', '-')}" for name, hint in hints.items() if Ellipsis in get_args(hint)}
    joined: dict[str, list[str]] = {}
    others: list[str] = []
    at = others
    for word in arguments:
        flag, has_value, value = word.partition("=")
        if flag in lists:
            values = joined.setdefault(flag, [])
            values += [value] if has_value else []
            at = others if has_value else values
        else:
            at = others if word.startswith("-") else at
            at.append(word)
    return [*others, *(word for flag, values in joined.items() for word in (flag, *values))]


def _without_box(text: str) -> str:
    """Tyro's framed error message as one line: without its title, sections separated by semicolons."""
    _title, *lines = text.splitlines() or [""]
    sections: list[list[str]] = [[]]
    for line in lines:
        words = line.strip(" │").split()
        if all(set(word) <= set("-─╰╯") for word in words):  # a horizontal rule
            sections.append([])
        else:
            sections[-1] += words
    return "; ".join(" ".join(section) for section in sections if section) or " ".join(text.split())


@contextmanager
def _open_paths(_config: Any) -> Iterator[Any]:
    yield default_paths()


def _open_runtime(config: Any) -> AbstractContextManager[Any]:
    from nanochat.runtime import open_runtime

    return open_runtime(config.device, config.dtype)


_OPENERS: dict[str, Callable[[Any], AbstractContextManager[Any]]] = {
    "paths": _open_paths,
    "runtime": _open_runtime,
}


def overview() -> str:
    """The text of `nanochat --help`."""
    single = {name: verb for name, verb in VERBS.items() if len(name) == 1}
    lines = ["usage: nanochat VERB [options]", "", "The complete system for making your own chat model.", ""]
    lines += [_line(name, verb) for name, verb in single.items()]
    for group in GROUPS:
        lines += ["", _listing(group)]
    return "\n".join([*lines, "", _EPILOGUE])


def _listing(group: str) -> str:
    lines = [_line(name, verb) for name, verb in VERBS.items() if len(name) == 2 and name[0] == group]
    return "\n".join([f"{group}: {GROUPS[group]}", *lines])


def _line(name: tuple[str, ...], verb: Verb) -> str:
    return f"  {' '.join(name):20} {verb.help}"


def _out_of_memory(error: Exception) -> bool:
    """Whether the error means that Python or torch ran out of memory, on the CPU or a GPU."""
    if isinstance(error, MemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error):
        return True
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def _describe(error: OSError) -> str:
    if error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def _complain(message: str) -> None:
    """Print one line to stderr, with the rank if there are several processes; the traceback too if debugging."""
    if os.environ.get("NANOCHAT_DEBUG", "0") not in ("", "0"):
        traceback.print_exc()
    rank = f" (process {_rank()})" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ""
    first, _, more = message.partition("\n")
    hint = " (NANOCHAT_DEBUG=1 shows more)" if more else ""
    print(f"nanochat{rank}: {first}{hint}", file=sys.stderr, flush=True)


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))
