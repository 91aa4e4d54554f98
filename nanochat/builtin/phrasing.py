"""How a question becomes what a person types: openings before the question proper."""

from __future__ import annotations

PREFIXES: tuple[str, ...] = (
    "", "", "", "", "Hi! ", "Hello! ", "Please tell me: ", "I forgot: ", "Quick question: ",
    "One question: ", "Do you know this? ", "Help me: ", "For my homework: ", "Hey, ", "I want to know: ",
    "Excuse me, ", "My friend asks: ", "Next question: ", "Just tell me: ", "Good morning! ", "Okay. ",
)  # fmt: skip


def with_prefix(prefix: str, question: str, *, proper: bool = False) -> str:
    """The question after an opening; small first letter after a colon or comma unless a name comes first."""
    if prefix.endswith((": ", ", ")) and not proper and not question.startswith("I "):
        question = question[0].lower() + question[1:]
    return prefix + question


def casual(question: str) -> str:
    """The question as hasty people type it: small first letter, no full stop or question mark."""
    return question[0].lower() + question[1:].rstrip("?.")
