"""The limits of the house, for what neither ruff nor mypy can say: sizes, names, state, wording.

Each rule is a function from a source (or all of them) to a list of offences, so that it can be tried on a
sample that breaks it.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MOST_LINES_OF_A_FILE = 300
MOST_LINES_OF_A_FUNCTION = 60

# One concept has one word. On the left what must not come back as a name or a flag of the package.
WORDS = {
    "sequence_len": "max_seq_len",
    "sequence_length": "max_seq_len",
    "seq_len": "max_seq_len",
    "max_length": "max_seq_len",
    "context_length": "max_seq_len",
    "block_size": "max_seq_len",
    "run_name": "model_tag",
    "base_tag": "model_tag",
    "the_plan": "another name, or call the function by its module",
    "the_config": "another name, or call the function by its module",
    "compiling": "another name, or call the function by its module",
    "dataset_name": "dataset",
    "num_steps": "num_iterations",
}
FLAGS = {
    "--context": "--max-seq-len",
    "--sequence-len": "--max-seq-len",
    "--max-length": "--max-seq-len",
    "--base": "--model-tag",
    "--steps": "--num-iterations",
    "--batch-size": "--total-batch-size or --device-batch-size",
}

# Phrases that need decoding, and plain ones for them. Regular expressions, case ignored.
PHRASES = {
    r"\bwhom\b": "who, or another sentence",
    r"\bshall\b": "must, should, will",
    r"\bbroken? off\b|\bbreaks off\b": "interrupted, cut off",
    r"\b(goes|going) on\b|\bgo on (where|from|with|in)\b": "resumes, continues",
    r"\bto be had\b|\bbe had\b|\bcome by\b": "available, download",
    r"\bin vain\b": "for nothing, unused",
    r"\bin so many\b|\bof so many\b|\bby so many\b": "every n-th, the number of",
    r"\b(made|begins?|starts?|tokenised|fetched|packed) anew\b": "again",
    r"\bvouch": "untrusted",
    r"\bwith the eyes of\b": "as if running on",
    r"\bnot done twice\b": "finished work is skipped",
    r"\bhow long to insist\b": "retry limits",
    r"\bthe one that\b": "what, which",
    r"`\w+` hears\b|\bhears (of|about|bytes|every)\b": "receives",
    r"\bat what all\b": "at an aggregate of",
    r"\bhas the say\b|\bin its face\b|\bin its hand\b": "a plain verb",
    r"\b(todo|fixme)\b": "do it now",
}


@dataclass(frozen=True)
class Source:
    """A file of code: its path below the repository and its text."""

    name: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def stem(self) -> str:
        return Path(self.name).stem


def _read(*patterns: str) -> list[Source]:
    paths = sorted(path for pattern in patterns for path in ROOT.glob(pattern))
    return [Source(str(path.relative_to(ROOT)), path.read_text()) for path in paths]


PACKAGE = _read("nanochat/**/*.py")
NATIVE = _read("nanochat/**/*.cpp", "nanochat/**/*.hpp")
BENCH = _read("bench/**/*.py")
PROSE = [
    *PACKAGE,
    *BENCH,
    *_read("tests/**/*.py", "*.md", "docs/**/*.md", "runs/*", "Makefile", "pyproject.toml"),
]


def _functions(source: Source) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


# ---- sizes


def _is_table(source: Source, function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """A table of the builtin world's wordings: the function only names values and returns them."""
    straight = (ast.Expr, ast.Assign, ast.AnnAssign, ast.Return)
    return source.stem.startswith("wordings_") and all(isinstance(line, straight) for line in function.body)


def long_files(source: Source) -> list[str]:
    lines = source.text.count("\n")
    return [f"{source.name} has {lines} lines"] if lines > MOST_LINES_OF_A_FILE else []


def long_functions(source: Source) -> list[str]:
    return [
        f"{source.name}:{function.lineno} {function.name} has {lines} lines"
        for function in _functions(source)
        if (lines := (function.end_lineno or 0) - function.lineno + 1) > MOST_LINES_OF_A_FUNCTION
        and not _is_table(source, function)
    ]


# ---- state


def _containers(tree: ast.Module) -> set[str]:
    """Names that the module itself binds to a list, dict, set or a call of their makers."""
    makers = {"list", "dict", "set", "defaultdict", "deque", "Counter", "OrderedDict", "bytearray"}
    displays = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
    found = set()
    for node in tree.body:
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        called = value.func if isinstance(value, ast.Call) else None
        if isinstance(value, displays) or (isinstance(called, ast.Name) and called.id in makers):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]  # type: ignore[union-attr]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


MUTATORS = {
    *("append", "extend", "insert", "remove", "pop", "clear", "sort", "reverse", "update", "setdefault"),
    *("popitem", "add", "discard", "appendleft", "popleft", "__setitem__", "__delitem__"),
}


def mutable_globals(source: Source) -> list[str]:
    """Module-level containers that functions of the module change. (`global` itself is ruff's PLW0603.)"""
    containers = _containers(source.tree)
    changed: list[tuple[int, str]] = []
    for function in _functions(source):
        for node in ast.walk(function):
            owner = None
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = node.func.value if node.func.attr in MUTATORS else None
            elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
                owner = node.value
            if isinstance(owner, ast.Name) and owner.id in containers:
                changed.append((node.lineno, owner.id))
    return [f"{source.name}:{line} changes the module's {name}" for line, name in sorted(set(changed))]


def asks_hasattr(source: Source) -> list[str]:
    calls = (node for node in ast.walk(source.tree) if isinstance(node, ast.Call))
    return [
        f"{source.name}:{call.lineno} calls hasattr"
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id == "hasattr"
    ]


# ---- names


def _twice(names: Iterable[tuple[str, str]]) -> list[str]:
    """(name, where): every name that stands in more than one place."""
    places = defaultdict(list)
    for name, where in names:
        places[name].append(where)
    return [f"{name}: {', '.join(where)}" for name, where in sorted(places.items()) if len(where) > 1]


def modules_of_one_name(sources: Iterable[Source]) -> list[str]:
    return _twice((source.stem, source.name) for source in sources if not source.stem.startswith("__"))


def types_of_one_name(sources: Iterable[Source]) -> list[str]:
    """Public classes and type aliases: a module's CamelCase names."""
    found = []
    for source in sources:
        for node in source.tree.body:
            names = [node.name] if isinstance(node, ast.ClassDef) else []
            if isinstance(node, ast.Assign):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            found += [(name, source.name) for name in names if re.fullmatch(r"[A-Z]\w*[a-z]\w*", name)]
    return _twice(found)


def _names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every name that the code itself chooses: variables, parameters, attributes, functions, classes."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name
            case ast.arg(arg=name):
                yield node.lineno, name


def retired_words(source: Source) -> list[str]:
    offences = [
        f"{source.name}:{line} {name}: say {WORDS[name]}"
        for line, name in _names(source.tree)
        if name in WORDS
    ]
    for number, line in enumerate(source.text.splitlines(), start=1):
        for flag in re.findall(r"--[a-z][a-z-]*", line):
            if flag in FLAGS:
                offences.append(f"{source.name}:{number} {flag}: say {FLAGS[flag]}")
    return offences


# ---- wording


def riddles(source: Source) -> list[str]:
    """Phrases of the table above. Prose wraps, so that a phrase may lie across a line's end."""
    text = re.sub(r"\s+(#\s)?", lambda gap: " " * len(gap.group()), source.text)
    return [
        f"{source.name}:{source.text.count(chr(10), 0, found.start()) + 1} {found.group()!r}: say {better}"
        for phrase, better in PHRASES.items()
        for found in re.finditer(phrase.replace(" ", r"\s+"), text, re.IGNORECASE)
    ]


# ---- the rules, held


OF_THE_PACKAGE: list[Callable[[Source], list[str]]] = [
    long_files,
    long_functions,
    mutable_globals,
    asks_hasattr,
    retired_words,
]


def _assert_none(offences: Iterable[str]) -> None:
    found = list(offences)
    assert not found, "\n".join(["", *found])


@pytest.mark.parametrize("rule", OF_THE_PACKAGE, ids=lambda rule: rule.__name__)
def test_every_module_keeps_the_rule(rule: Callable[[Source], list[str]]) -> None:
    _assert_none(offence for source in PACKAGE for offence in rule(source))


def test_files_of_cpp_have_the_size_of_a_module() -> None:
    assert NATIVE
    _assert_none(offence for source in NATIVE for offence in long_files(source))


@pytest.mark.parametrize("rule", [modules_of_one_name, types_of_one_name], ids=lambda rule: rule.__name__)
def test_no_name_stands_for_two_things(rule: Callable[[Iterable[Source]], list[str]]) -> None:
    _assert_none(rule(PACKAGE))


@pytest.mark.parametrize("rule", [long_files, long_functions], ids=lambda rule: rule.__name__)
def test_benchmarks_have_the_size_of_a_module(rule: Callable[[Source], list[str]]) -> None:
    _assert_none(offence for source in BENCH for offence in rule(source))


def test_nothing_needs_decoding() -> None:
    here = Path(__file__).relative_to(ROOT)
    _assert_none(offence for source in PROSE if source.name != str(here) for offence in riddles(source))


# ---- the rules, tried


@pytest.mark.parametrize(
    ("rule", "broken"),
    [
        (long_files, "x = 1\n" * 301),
        (long_functions, "def f():\n" + "    x = 1\n" * 60),
        (mutable_globals, "SEEN = {}\ndef f():\n    SEEN['x'] = 1\n"),
        (mutable_globals, "SEEN: list[int] = []\ndef f():\n    SEEN.append(1)\n"),
        (mutable_globals, "SEEN = set()\ndef f():\n    del SEEN[0]\n"),
        (asks_hasattr, "def f(x):\n    return hasattr(x, 'y')\n"),
        (retired_words, "def f(sequence_len):\n    return 1\n"),
        (retired_words, "the_plan = 1\n"),
        (retired_words, "HELP = 'choose a larger --context'\n"),
        (riddles, "# the child goes on\n"),
        (riddles, '"""What a server,\nnobody has\nvouched for, sends."""\n'),
        (riddles, "# one in so\n# many\n"),
    ],
)
def test_a_rule_finds_what_it_forbids(rule: Callable[[Source], list[str]], broken: str) -> None:
    assert rule(Source("nanochat/wording.py", broken)) != []


def test_names_that_stand_for_two_things_are_found() -> None:
    sources = [Source("nanochat/a/same.py", "class Same: ..."), Source("nanochat/b/same.py", "Same = int")]
    assert modules_of_one_name(sources)
    assert types_of_one_name(sources)


def test_a_table_of_wordings_may_be_long_and_code_beside_it_may_not() -> None:
    table = "def f():\n    return (\n" + "        1,\n" * 70 + "    )\n"
    loop = "def f():\n    for _ in []:\n" + "        x = 1\n" * 70
    assert long_functions(Source("nanochat/builtin/wordings_x.py", table)) == []
    assert long_functions(Source("nanochat/builtin/wordings_x.py", loop)) != []
    assert long_functions(Source("nanochat/builtin/other.py", table)) != []
