"""How people type questions: openings before the question, and hasty spelling."""

from __future__ import annotations

PREFIXES: tuple[str, ...] = (
    "", "", "", "", "Hi! ", "Hello! ", "Please tell me: ", "I forgot: ", "Quick question: ",
    "One question: ", "Do you know this? ", "Help me: ", "For my homework: ", "Hey, ", "I want to know: ",
    "Excuse me, ", "My friend asks: ", "Next question: ", "Just tell me: ", "Good morning! ", "Okay. ",
)  # fmt: skip


def with_prefix(prefix: str, question: str, *, proper: bool = False) -> str:
    """The question after an opening. After a colon or comma it starts in lower case, unless it starts with a name."""
    if prefix.endswith((": ", ", ")) and not proper and not question.startswith("I "):
        question = question[0].lower() + question[1:]
    return prefix + question


def casual(question: str) -> str:
    """The question as typed in haste: lower-case first letter, no full stop or question mark."""
    return question[0].lower() + question[1:].rstrip("?.")
