"""Arithmetic: problems, worked examples for the documents, questions for the Python tool."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from nanochat.builtin.everyday import PEOPLE, THINGS
from nanochat.builtin.holdout import held_out_sum
from nanochat.builtin.phrasing import typed

_SIGNS = {"+": "+", "-": "-", "*": "×", "/": "÷"}
_SPOKEN = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}

_GENERAL = (
    "What is {e}?", "What is {e}?", "{e} = ?", "Calculate {e}.", "Compute {e}.", "How much is {e}?",
    "Work out {e}.", "What does {e} equal?", "Solve {e}.", "{e}", "What do you get for {e}?",
    "What is the value of {e}?", "Tell me {e}.", "Can you work out {e}?", "What is the result of {e}?",
)  # fmt: skip
_SPECIAL = {
    "+": ("What is the sum of {a} and {b}?", "Add {a} and {b}.", "How much is {a} and {b} together?",
          "{name} has {a} {things} and gets {b} more. How many {things} does {name} have now?"),
    "-": ("Subtract {b} from {a}.", "What is the difference between {a} and {b}?", "Start at {a} and take away {b}.",
          "{name} has {a} {things} and gives away {b}. How many {things} are left?"),
    "*": ("What is the product of {a} and {b}?", "Multiply {a} by {b}.", "Multiply {a} and {b}.",
          "There are {a} boxes with {b} {things} each. How many {things} are there?"),
    "/": ("Divide {a} by {b}.", "What do you get if you divide {a} by {b}?", "Share {a} into {b} equal parts.",
          "{name} puts {a} {things} into {b} equal bags. How many {things} are in each bag?"),
}  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """`a op b` with an integer result; `op` is one of + - * /."""

    a: int
    op: str
    b: int

    @property
    def result(self) -> int:
        """The integer result."""
        match self.op:
            case "+":
                return self.a + self.b
            case "-":
                return self.a - self.b
            case "*":
                return self.a * self.b
            case _:
                return self.a // self.b

    @property
    def code(self) -> str:
        """The expression sent to the Python tool."""
        return f"{self.a}{self.op}{self.b}"

    @property
    def equation(self) -> str:
        """The problem with its result, in printed signs."""
        return f"{self.a} {_SIGNS[self.op]} {self.b} = {self.result}"

    def expression(self, rng: Random) -> str:
        """The problem as people write or say it."""
        form = rng.random()
        if form < 0.5:
            return f"{self.a} {_SIGNS[self.op]} {self.b}"
        if form < 0.7:
            return f"{self.a} {_SPOKEN[self.op]} {self.b}"
        sign = rng.choice((self.op, _SIGNS[self.op], "x" if self.op == "*" else self.op))
        return f"{self.a}{sign}{self.b}" if form < 0.85 else f"{self.a} {sign} {self.b}"


def _number(rng: Random) -> int:
    """Mostly two and three digits."""
    return rng.choice((rng.randint(1, 9), *(rng.randint(10, 99),) * 4, *(rng.randint(100, 999),) * 4))


def _candidate(rng: Random) -> Problem:
    op = rng.choice("+++---**/")
    if op in "+-":
        a, b = _number(rng), _number(rng)
        return Problem(max(a, b), op, min(a, b)) if op == "-" else Problem(a, op, b)
    b = rng.choice((rng.randint(2, 12), rng.randint(10, 99)))
    if op == "*":
        return Problem(_number(rng), op, b)
    return Problem(b * rng.randint(2, max(2, 999 // b)), op, b)


def sample_problem(rng: Random, *, held_out: bool = False) -> Problem:
    """A random problem, from the training or the held-out side."""
    while True:
        problem = _candidate(rng)
        if held_out_sum(problem.a, problem.op, problem.b) == held_out:
            return problem


def ask(rng: Random, problem: Problem) -> str:
    """A user message asking for the problem's result."""
    core = rng.choice(_GENERAL if rng.random() < 0.75 else _SPECIAL[problem.op])
    name, things = rng.choice(PEOPLE)[0], rng.choice(THINGS)
    text = core.format(e=problem.expression(rng), a=problem.a, b=problem.b, name=name, things=things)
    return typed(rng, text, proper=core.startswith("{"))


def tool_answer(problem: Problem) -> list[dict[str, str]]:
    """The assistant's content parts: the tool call, its output, the answer."""
    return [
        {"type": "python", "text": problem.code},
        {"type": "python_output", "text": str(problem.result)},
        {"type": "text", "text": f"{problem.equation}."},
    ]


def _columns(problem: Problem) -> str:
    """Addition digit by digit with the carry spelled out."""
    left, right, carry, place, steps = problem.a, problem.b, 0, 0, []
    names = ("ones", "tens", "hundreds", "thousands")
    while left or right:
        x, y = left % 10, right % 10
        total = x + y + carry
        text = f"{names[place]}: {x} + {y}" + (" + 1" if carry else "") + f" = {total}"
        steps.append(text + (f", write {total % 10} and carry 1" if total > 9 else ""))
        left, right, carry, place = left // 10, right // 10, total // 10, place + 1
    return f"{problem.a} + {problem.b}. " + "; ".join(steps) + f". So {problem.equation}."


def _statement(rng: Random, problem: Problem) -> str:
    a, b, result = problem.a, problem.b, problem.result
    forms = [
        f"{problem.equation}.",
        f"{problem.equation}.",
        f"{a} {_SPOKEN[problem.op]} {b} is {result}.",
        f"For {problem.expression(rng)} we type {problem.code} and read {result}.",
        f"To work out {problem.expression(rng)}, type {problem.code}. The answer is {result}.",
    ]
    if problem.op == "+":
        forms.append(_columns(problem))
    if problem.op == "-" and not held_out_sum(result, "+", b):
        forms.append(f"{problem.equation}, because {result} and {b} together make {a}.")
    if problem.op == "/" and not held_out_sum(result, "*", b):
        forms.append(f"{problem.equation}, so {a} makes {b} equal parts of {result}.")
    return rng.choice(forms)


def worked_examples(rng: Random) -> str:
    """A document of worked problems."""
    heading = rng.choice(("", "Let us calculate. ", "Some sums: ", "Arithmetic. ", "We practice numbers. "))
    return heading + " ".join(_statement(rng, sample_problem(rng)) for _ in range(rng.randint(5, 14)))
