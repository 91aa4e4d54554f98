"""The calculator gives right answers, refuses everything else, and is always quick."""

import math
import warnings
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.sandbox.calculator import MAX_LENGTH, MAX_MAGNITUDE, _power, evaluate


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1+1", "2"),
        (" 12 * (3 + 4) ", "84"),
        ("7/2", "3.5"),
        ("6/2", "3"),
        ("-6/2", "-3"),
        ("9.0", "9"),
        ("2**10", "1024"),
        ("2**-1", "0.5"),
        ("2**0.5", "1.41421356237"),
        ("7//2", "3"),
        ("-7//2", "-4"),
        ("-7%3", "2"),
        ("--5", "5"),
        ("0.1+0.2", "0.3"),
        ("1/3", "0.333333333333"),
        ("0*-1.5", "0"),
        ("1,234 + 1,000,000", "1001234"),
        ("1,234,567", "1234567"),
        ("1,234.5*2", "2469"),
        ("(1,000)-999,999", "-998999"),
        ("1e3", "1000"),
        ("10**30 / 10**10", "1" + "0" * 20),
        ("123456789123456789 * 1", "123456789123456789"),
        ("'strawberry'.count('r')", "3"),
        ('"a, b, c".count(",")', "2"),
        ("'1,234'.count(',')", "1"),
        ("'naïve 😀😀'.count('😀')", "2"),
        ("'banana'.count('a') + 'apple'.count('p') * 2", "7"),
        ("'aaa'.count('')", "4"),
    ],
)
def test_values(expression: str, value: str) -> None:
    assert evaluate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "   ",
        "1+",
        "1;2",
        "1\n2",
        "x",
        "x = 1",
        "abs(1)",
        "__import__('os')",
        "print(1)",
        "().__class__",
        "''.__class__",
        "'a'.upper()",
        "'a'.count",
        "'a'.count.__self__",
        "'a'.count(sub='a')",
        "'a'.count(*'a')",
        "'a'.count(1)",
        "'a'.format(1)",
        "(1).real",
        "'a'",
        "'a' * 100",
        "'a' + 'b'",
        "'%s' % 1",
        "b'a'.count(b'a')",
        "f'{1}'",
        "[1][0]",
        "1 if 1 else 2",
        "1 and 2",
        "1 < 2",
        "True",
        "True + 1",
        "None",
        "...",
        "1j",
        "(-8) ** 0.5",
        "~5",
        "1 << 9",
        "5 @ 5",
        "lambda: 1",
        "(y := 1)",
        "1,2",
        "12,34",
        "1234,567",
        "1.5,200+1",
        "1,2345",
        "1,234,56",
        "1,,234",
        "0x1,234",
        "1,234e3",
        "1/0",
        "1//0",
        "1%0",
        "0**-1",
        "1e999",
        "1e999-1e999",
        "9**9**9",
        "9**401",
        "10**99*10",
        "2**332 * 2",
        "1\x00",
        "'\ud800'",
        "(" * 400,
        "-" * 500 + "1",
        "1" * MAX_LENGTH + "1",
        "0x1for x in 1",
        "'\\d'",
    ],
)
def test_refusals(expression: str) -> None:
    assert evaluate(expression) is None


class Unraised(int):
    def __pow__(self, exponent: int, modulus: int | None = None) -> int:
        raise AssertionError(f"computed {int(self)}**{exponent}")


@pytest.mark.parametrize("base", [9**104, -(9**104), MAX_MAGNITUDE - 1, 7], ids=lambda base: f"{base:.0e}")
def test_a_power_that_is_too_large_is_refused_without_being_computed(base: int) -> None:
    assert evaluate(f"({base})**400") is None
    with pytest.raises(ValueError, match="too large"):
        _power(Unraised(base), 400)


@given(base=st.integers(-(10**12), 10**12), exponent=st.integers(0, 400))
def test_every_power_within_the_bound_is_computed(base: int, exponent: int) -> None:
    power = base**exponent
    assert evaluate(f"({base})**{exponent}") == (str(power) if abs(power) < MAX_MAGNITUDE else None)


ARITHMETIC = st.recursive(
    st.one_of(
        st.integers(0, 10**6).map(str),
        st.integers(0, 10**40).map(str),
        st.decimals(0, 1000, places=3).map(str),
    ),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", "%", "**"]), inner).map(" ".join),
        inner.map("({})".format),
        inner.map("-{}".format),
    ),
    max_leaves=12,
)


@given(expression=ARITHMETIC)
@settings(deadline=None, max_examples=300)
def test_any_arithmetic_ends_soon_in_a_number_or_nothing(expression: str) -> None:
    value = evaluate(expression)
    assert value is None or abs(float(value)) <= MAX_MAGNITUDE


@given(
    text=st.one_of(
        st.text(max_size=60),
        st.text("0123456789+-*/%(). eE'\"count,_[]:=<>", max_size=60),
    )
)
@settings(deadline=None, max_examples=500)
def test_no_text_raises_or_warns(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value = evaluate(text)
    assert value is None or math.isfinite(float(value))


INTEGERS = st.integers(-(10**20), 10**20)


@given(a=INTEGERS, b=INTEGERS, sign=st.sampled_from(["+", "-", "*", "//", "%", "/"]))
def test_integers_are_exact(a: int, b: int, sign: str) -> None:
    value = evaluate(f"({a}) {sign} ({b})")
    if b == 0 and sign in ("//", "%", "/"):
        assert value is None
    elif sign != "/":
        assert value == str({"+": a + b, "-": a - b, "*": a * b, "//": b and a // b, "%": b and a % b}[sign])
    else:
        assert value is not None
        assert math.isclose(Fraction(value), Fraction(a, b), rel_tol=1e-11)


@given(text=st.text("abcABC ,'é😀", max_size=40), part=st.text("abc😀", min_size=1, max_size=2))
def test_letters_are_counted(text: str, part: str) -> None:
    assert evaluate(f"{text!r}.count({part!r})") == str(text.count(part))
