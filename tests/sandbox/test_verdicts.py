"""Verdicts on functions: no program forges one, and right answers pass however they are written."""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.sandbox.guest import decode, encode
from nanochat.sandbox.judge import RemoteFunction
from nanochat.sandbox.python import Verdict, check_function
from tests.sandbox.conftest import load_programs

TESTS = """
def check(candidate):
    assert candidate(3) == 9
    value, expected = candidate(2), 4
    assert value == expected, "two"
    assert not candidate(1) != 1
    assert candidate(10 ** 30) == 10 ** 60

check(square)
"""


def judge_all(programs: dict[str, str]) -> dict[str, Verdict]:
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        verdicts = pool.map(
            lambda code: check_function(code, "square", TESTS, timeout_s=3), programs.values()
        )
        return dict(zip(programs, verdicts, strict=True))


@pytest.mark.slow
def test_no_verdict_is_forged() -> None:
    programs = load_programs("forging")
    assert len(programs) >= 30
    verdicts = judge_all(programs)
    assert {name for name, verdict in verdicts.items() if verdict.passed} == set()
    assert {name for name, verdict in verdicts.items() if not verdict.reason} == set()


@pytest.mark.slow
def test_no_right_answer_is_refused() -> None:
    verdicts = judge_all(load_programs("right"))
    assert {name: verdict.reason for name, verdict in verdicts.items() if not verdict.passed} == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "tests", "reason"),
    [
        ("def f(): return 1", "assert f() == 2, 'not two'", "AssertionError: not two"),
        ("def f(): return 1", "assert f() == 2", "AssertionError"),
        ("def f(): return 1", "g()", "NameError: name 'g' is not defined"),
        ("def f(): return 1 // 0", "f()", "ZeroDivisionError: integer division or modulo by zero"),
        ("def f(): raise __import__('queue').Empty('no')", "f()", "RuntimeError: no"),
        (
            "def f(): exit()",
            "f()",
            "ProgramEndedError: the program ended, or wrote to the pipe for its answers",
        ),
        ("def f(): exit()", "try: f()\nexcept: pass", "the program ended during the tests"),
        ("f = 1", "f()", "f is not a function"),
        ("g = 1", "f()", "AttributeError: module 'program' has no attribute 'f'"),
        ("def (", "f()", "SyntaxError: invalid syntax (program.py, line 1)"),
        ("def f():\n    while True: pass", "f()", "more than 1 s"),
        ("def f(): return 1", "while True: f()", "more than 1 s"),
        ("def f(): return 1", "import os; os._exit(0)", "the judge ended without a verdict"),
        (
            "def f(x): return x",
            "f(lambda: 1)",
            "NotPlainError: not a plain value: function",
        ),
    ],
)
def test_why_a_function_fails(code: str, tests: str, reason: str) -> None:
    verdict = check_function(code, "f", tests, timeout_s=1)
    assert (verdict.passed, verdict.reason) == (False, reason)


@pytest.mark.slow
def test_tests_may_expect_exceptions() -> None:
    code = "def f(x):\n    if x < 0: raise ValueError(x)\n    return x"
    tests = "try: f(-1)\nexcept ValueError as error: assert str(error) == '-1'\nelse: assert False\nassert f(x=1) == 1"
    assert check_function(code, "f", tests).passed


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
    | st.complex_numbers(allow_nan=False) | st.fractions() | st.decimals(allow_nan=False),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner)
    | st.sets(st.integers()) | st.frozensets(st.text()),
    max_leaves=10,
)  # fmt: skip


@given(value=PLAIN)
def test_plain_values_arrive_as_they_are(value: Any) -> None:
    arrived = decode(encode(value))
    assert arrived == value
    assert type(arrived) is type(value)


@given(message=st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text()
    | st.sampled_from(["int", "dict", "list", "str", "set"]),
    lambda inner: st.lists(inner, max_size=3), max_leaves=8,
))  # fmt: skip
def test_other_messages_are_errors(message: Any) -> None:
    try:
        value = decode(message)
    except ValueError:
        return
    assert type(value).__module__ in ("builtins", "fractions", "decimal", "nanochat.sandbox.guest")


def test_a_broken_answer_is_the_end(tmp_path) -> None:
    (tmp_path / "results").write_text('["returned", ["int", "0x1"]]\n' + "[" * 10**5 + "\n")
    with open(tmp_path / "calls", "w") as calls, open(tmp_path / "results") as results:
        remote = RemoteFunction(calls, results)
        assert remote() == 1
        with pytest.raises(BaseException, match="ended, or wrote"):
            remote()
        assert remote.ended
