"""Multiple-choice questions as text, in the forms that training and evaluation share."""

from __future__ import annotations

from collections.abc import Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def choice_prompt(question: str, choices: Sequence[str]) -> str:
    """The user message for a question with lettered choices; the expected reply is the letter alone."""
    lines = [question, *(f"{letter}. {text}" for letter, text in zip(LETTERS, choices, strict=False))]
    return "\n".join([*lines, "Answer with the letter."])


def named_choice_prompt(question: str, choices: Sequence[str]) -> str:
    """The user message for a question that is answered in a sentence, with its letter after the option.

    In the question, too, a letter stands right after its option. A model of three layers learns this form: the sentence
    recalls the fact, and the letter is the token that followed the same words before (with a space before them, as in
    a sentence, since a word after a line break has other tokens). It does not learn `choice_prompt`
    (docs/log.md).
    """
    options = zip(LETTERS, choices, strict=False)
    lines = [question, *(f"- {named_choice(text, letter)}" for letter, text in options)]
    return "\n".join([*lines, "Answer with the option and its letter."])


def named_choice(option: str, letter: str) -> str:
    """An option and its letter."""
    return f"{option} {letter}"
