"""Rewards: a table of small functions from an attempt at an item to a number, and the user's own function."""

import hashlib
import importlib.util
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from nanochat.infer.tools import REFUSED
from nanochat.tasks.task import Item, Score
from nanochat.text.own_files import absolute


@dataclass(frozen=True)
class Attempt:
    """A sampled reply to an item, as a reward sees it."""

    item: Item
    text: str
    """The reply after its last tool output, or all of it."""
    parts: Sequence[Mapping[str, str]]
    """All of the reply: `{"type": "text" | "python" | "python_output", "text"}`."""
    score: Score
    """The task's own check of `text`."""
    tokens: int
    """Tokens that the model sampled."""
    limit: int
    """The most it could sample."""
    ended: bool
    """Whether the model ended its reply, rather than the token limit."""


RewardFunction = Callable[[Attempt], float]


def answer(attempt: Attempt) -> float:
    """The task's score: 1 for a right answer, less for what earns partial credit."""
    return attempt.score.value


def right(attempt: Attempt) -> float:
    """1 for a right answer, else 0."""
    return float(attempt.score.right)


def form(attempt: Attempt) -> float:
    """1 for a reply that ends by itself and has text after its last call, else 0."""
    return float(attempt.ended and bool(attempt.text.strip()))


def tool(attempt: Attempt) -> float:
    """1 if it called the tool, no call was refused and no output invented, else 0."""
    outputs = [
        (before["type"], part["text"])
        for before, part in pairwise(({"type": "start"}, *attempt.parts))
        if part["type"] == "python_output"
    ]
    return float(bool(outputs) and all(kind == "python" and text != REFUSED for kind, text in outputs))


def length(attempt: Attempt) -> float:
    """The share of the token limit that was left unused."""
    return 1 - attempt.tokens / attempt.limit


REWARDS: Mapping[str, RewardFunction] = {
    "answer": answer,
    "right": right,
    "format": form,
    "tool": tool,
    "length": length,
}

_TERM = re.compile(r"(?P<name>[a-z]+)(?:\*(?P<weight>-?[0-9.]+))?")
OWN = "own"
"""The name of the user's own reward in figures."""


@dataclass(frozen=True)
class Rewards:
    """Weighted reward functions by name; their sum is an attempt's reward."""

    functions: Mapping[str, tuple[float, RewardFunction]]

    def of(self, attempt: Attempt) -> dict[str, float]:
        """Each function's weighted value. Raises ValueError if one is not a finite number."""
        return {name: weight * _checked(name, f(attempt)) for name, (weight, f) in self.functions.items()}


def _checked(name: str, value: object) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"the reward {name!r} must return a finite number, not {value!r}")
    return float(value)


def parse_rewards(words: str, own: str | None = None) -> Rewards:
    """The rewards of a sum such as "answer+tool*0.1", and the function `reward` of the Python file `own`.

    With a file, `words` may be empty. Raises ValueError for an unknown name, a malformed weight or an unusable file.
    """
    functions: dict[str, tuple[float, RewardFunction]] = {}
    for term in filter(None, (word.strip() for word in words.split("+"))):
        found = _TERM.fullmatch(term)
        if found is None or found["name"] not in REWARDS:
            raise ValueError(
                f"cannot read the reward {term!r}: write a sum such as answer+tool*0.1 of {', '.join(REWARDS)}"
            )
        if found["name"] in functions:
            raise ValueError(
                f"the reward {found['name']} is named twice: write {found['name']}*2 for twice its weight"
            )
        functions[found["name"]] = (_weight(term, found["weight"] or "1"), REWARDS[found["name"]])
    if own is not None:
        functions[OWN] = (1.0, load_reward(Path(own)))
    if not functions:
        raise ValueError(f"no reward is left: name one of {', '.join(REWARDS)}, or give --reward FILE")
    return Rewards(functions)


def _weight(term: str, digits: str) -> float:
    try:
        return float(digits)
    except ValueError:
        raise ValueError(f"the weight of the reward {term!r} is not a number") from None


def load_reward(path: Path) -> RewardFunction:
    """The function `reward(attempt)` of a Python file, which runs with all rights of this process.

    Raises ValueError if it cannot be read or has no such function.
    """
    spec = importlib.util.spec_from_file_location("own_reward", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ValueError(f"--reward {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's file raises
        raise ValueError(f"--reward {path} fails: {type(error).__name__}: {error}") from error
    function = vars(module).get("reward")
    if not callable(function):
        raise ValueError(f"--reward {path} must define a function reward(attempt) that returns a number")

    def reward(attempt: Attempt) -> float:
        try:
            return function(attempt)
        except Exception as error:  # whatever the user's function raises
            raise ValueError(f"--reward {path} fails: {type(error).__name__}: {error}") from error

    return reward


def rewards_digest(words: str, own: str | None) -> str:
    """Identifies the rewards of a run, by the content of the user's file."""
    content = b"" if own is None else Path(absolute(own)).read_bytes()
    return hashlib.sha256(words.encode() + b"\0" + content).hexdigest()[:16]
