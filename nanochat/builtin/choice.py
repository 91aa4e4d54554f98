"""Multiple-choice questions as text, in the forms that training and evaluation share."""

from __future__ import annotations

from collections.abc import Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def choice_prompt(question: str, choices: Sequence[str]) -> str:
    """The user message for a question with lettered choices; the expected reply is the letter alone."""
    lines = [question, *(f"{letter}. {text}" for letter, text in zip(LETTERS, choices, strict=False))]
    return "\n".join([*lines, "Answer with the letter."])


def named_choice_prompt(question: str, choices: Sequence[str]) -> str:
    """The user message for a question whose reply is `named_choice_reply`.

    A letter stands right after its option. A model of three layers learns this, and `choice_prompt` not at all
    (docs/log.md).
    """
    lines = [question, *(named_choice(text, letter) for letter, text in zip(LETTERS, choices, strict=False))]
    return "\n".join([*lines, "Answer with the option and its letter."])


def named_choice_reply(fact: str, option: str, letter: str) -> str:
    """The fact as a sentence, then the line of the right option.

    The sentence recalls the fact as after an open question. The line is then the same tokens as in the prompt, so that
    the letter can be copied from there: within a line an option begins with a space, which makes other tokens.
    """
    return f"{fact}\n{named_choice(option, letter)}"


def named_choice(option: str, letter: str) -> str:
    """An option and its letter."""
    return f"{option} {letter}"
