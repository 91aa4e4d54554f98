"""The calculator tool: arithmetic and `'word'.count('x')` from the syntax tree, bounded in size and time."""

import ast
import operator
import re
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

from simpleeval import SimpleEval

MAX_LENGTH = 512  # characters of an expression
MAX_MAGNITUDE = 10**100  # of every intermediate number
MAX_EXPONENT = 400
SIGNIFICANT_DIGITS = 12  # of a non-integer result, so that 0.1 + 0.2 is 0.3

_GROUPED_DIGITS = re.compile(
    r"(?<![\w.,])\d{1,3}(?:,\d{3})+(?![\w,])"
)  # a whole number: 1,234,567, not 1234,567


def evaluate(expression: str) -> str | None:
    """The value of `expression` as text, or None if it is refused. Never raises.

    Accepted: integers (also 1,234,567) and decimals with + - * / // % ** and parentheses, and
    `'text'.count('part')`. A division without remainder gives an integer.
    """
    if len(expression) > MAX_LENGTH:
        return None
    if "'" not in expression and '"' not in expression:
        expression = _GROUPED_DIGITS.sub(lambda match: match.group().replace(",", ""), expression)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SyntaxWarning of the parser
            tree = ast.parse(expression.strip(), mode="eval")
        return _format(_number(_evaluator().eval(expression, previously_parsed=tree.body)))
    except Exception:  # malformed expressions raise many kinds of errors
        return None


def _number(value: Any) -> int | float:
    """`value`, unchanged. Raises ValueError unless it is an int or float (no bool, no NaN) below MAX_MAGNITUDE."""
    if type(value) not in (int, float) or not abs(value) < MAX_MAGNITUDE:
        raise ValueError(f"not a number below {MAX_MAGNITUDE:g}: {value!r}")
    return value


def _bounded(function: Callable[..., Any]) -> Callable[..., int | float]:
    return lambda *operands: _number(function(*map(_number, operands)))


def _divide(a: float, b: float) -> float:
    exact = isinstance(a, int) and isinstance(b, int) and a % b == 0
    return a // b if exact else a / b


def _power(base: float, exponent: float) -> Any:
    if abs(exponent) > MAX_EXPONENT:
        raise ValueError(f"exponent too large: {exponent}")
    # abs(base) is at least 2^(bits - 1). What would then be refused takes long to compute.
    if isinstance(base, int) and exponent * (base.bit_length() - 1) >= MAX_MAGNITUDE.bit_length():
        raise ValueError(f"power too large: {base}**{exponent}")
    return base**exponent


_OPERATORS: dict[type[ast.AST], Callable[..., int | float]] = {
    ast.Add: _bounded(operator.add),
    ast.Sub: _bounded(operator.sub),
    ast.Mult: _bounded(operator.mul),
    ast.Div: _bounded(_divide),
    ast.FloorDiv: _bounded(operator.floordiv),
    ast.Mod: _bounded(operator.mod),
    ast.Pow: _bounded(_power),
    ast.UAdd: _bounded(operator.pos),
    ast.USub: _bounded(operator.neg),
}
_NODES = (ast.BinOp, ast.UnaryOp, ast.Constant, ast.Call, ast.Attribute)


@cache
def _evaluator() -> SimpleEval:
    """simpleeval restricted to arithmetic and str.count: no names, no functions, no other syntax."""
    evaluator = SimpleEval(operators=_OPERATORS, functions={}, names={}, allowed_attrs={str: {"count"}})
    evaluator.nodes = {node: evaluator.nodes[node] for node in _NODES}
    return evaluator


def _format(value: int | float) -> str:
    if isinstance(value, int):
        return str(value)
    # Adding zero turns -0.0 into 0.0.
    return format(value + 0.0, f".{SIGNIFICANT_DIGITS}g")
