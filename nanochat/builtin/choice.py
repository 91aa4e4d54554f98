"""Multiple-choice questions as text, in the forms that training and evaluation share."""

from __future__ import annotations

from collections.abc import Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def choice_prompt(question: str, choices: Sequence[str]) -> str:
    """The user message for a question with lettered choices; the expected reply is the letter alone."""
    lines = [question, *(f"{letter}. {text}" for letter, text in zip(LETTERS, choices, strict=False))]
    return "\n".join([*lines, "Answer with the letter."])


def named_choice_prompt(question: str, choices: Sequence[str]) -> str:
    """The user message for a question whose reply is the right option and its letter (`named_choice`).

    A letter stands right after its option. A model of three layers learns this in part, and not at all
    `choice_prompt` (docs/log.md).
    """
    lines = [question, *(named_choice(text, letter) for letter, text in zip(LETTERS, choices, strict=False))]
    return "\n".join([*lines, "Answer with the option and its letter."])


def named_choice(option: str, letter: str) -> str:
    """An option and its letter."""
    return f"{option} {letter}"
