"""Documents that can only be predicted by copying, the skill that tool calls and their answers need."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from nanochat.builtin.arithmetic import sample_problem
from nanochat.builtin.everyday import PEOPLE
from nanochat.builtin.lexicon import WORDS


def _number(rng: Random) -> int:
    return rng.randrange(10 ** rng.randint(1, 5))


def _repeat_number(rng: Random) -> str:
    n, name = _number(rng), rng.choice(PEOPLE)[0]
    return rng.choice(
        (
            f"{name} wrote {n} and then read it aloud: {n}.",
            f"The number on the door was {n}, so {name} looked for {n}.",
            f'"What is the number?" asked {name}. It was {n}. Again: {n}.',
            f"Say {n}. {n}.",
        )
    )


def _repeat_numbers(rng: Random) -> str:
    numbers = " ".join(str(_number(rng)) for _ in range(rng.randint(2, 5)))
    return rng.choice((f"Repeat {numbers}: {numbers}.", f"The list is {numbers}. Once more: {numbers}."))


def _repeat_words(rng: Random) -> str:
    words = " ".join(rng.sample(WORDS, rng.randint(2, 5)))
    name = rng.choice(PEOPLE)[0]
    return rng.choice((f"Repeat {words}: {words}.", f"{name} said {words}, and we heard {words}."))


def _quote_word(rng: Random) -> str:
    word, name = rng.choice(WORDS), rng.choice(PEOPLE)[0]
    return rng.choice(
        (
            f'{name} wrote the word {word} in quotes: "{word}".',
            f'The word "{word}" without quotes is {word}.',
            f"{word} \"{word}\" '{word}'.",
        )
    )


def _expression(rng: Random) -> str:
    problem, name = sample_problem(rng), rng.choice(PEOPLE)[0]
    written = problem.expression(rng)
    return rng.choice(
        (
            f"{name} writes {written} and types {problem.code}.",
            f"{written} is typed {problem.code}.",
            f"Without spaces {written} becomes {problem.code}.",
        )
    )


_FORMS: tuple[Callable[[Random], str], ...] = (
    _repeat_number, _repeat_numbers, _repeat_words, _quote_word, _quote_word, _expression, _expression, _expression,
)  # fmt: skip


def copying(rng: Random) -> str:
    """A document of repeated numbers, words and expressions."""
    return " ".join(rng.choice(_FORMS)(rng) for _ in range(rng.randint(6, 14)))
