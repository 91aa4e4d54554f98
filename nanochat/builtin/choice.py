"""Multiple-choice questions as text: the one form that training and evaluation share."""

from __future__ import annotations

from collections.abc import Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def choice_prompt(question: str, choices: Sequence[str]) -> str:
    """The user message for a question with lettered choices; the expected reply is the letter alone."""
    lines = [question, *(f"{letter}. {text}" for letter, text in zip(LETTERS, choices, strict=False))]
    return "\n".join([*lines, "Answer with the letter."])
