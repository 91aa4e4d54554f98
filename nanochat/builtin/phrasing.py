"""How people type questions: openings before the question, and hasty spelling."""

from __future__ import annotations

import re
from random import Random

PREFIXES: tuple[str, ...] = (
    "", "", "", "", "Hi! ", "Hello! ", "Please tell me: ", "I forgot: ", "Quick question: ",
    "One question: ", "Do you know this? ", "Help me: ", "For my homework: ", "Hey, ", "I want to know: ",
    "Excuse me, ", "My friend asks: ", "Next question: ", "Just tell me: ", "Good morning! ", "Okay. ",
)  # fmt: skip
"""Openings before a question about the world."""

PLAIN_PREFIXES: tuple[str, ...] = (
    "", "", "", "", "Hi! ", "Hello! ", "Quick question: ", "One question: ", "Hey, ", "Excuse me, ",
    "Next question: ", "Good morning! ", "Okay. ",
)  # fmt: skip
"""Openings that fit any message, also a request and a question about you or me."""

HASTE = 0.12
"""The share of questions that are typed in haste."""
_PERSON = re.compile(r"\b(?:I|me|my|you|your)\b")
_NOUN_PHRASE = re.compile(r"What is the (\w+ (?:of|for) .+)")


def typed(rng: Random, question: str, *, proper: bool = False) -> str:
    """The question as someone types it: sometimes in haste, else often with an opening that fits.

    A question that begins with a name is `proper` and keeps its capital.
    """
    if not proper and rng.random() < HASTE:
        return hasty(rng, question)
    plain = question.endswith(".") or _PERSON.search(question)
    return with_prefix(rng.choice(PLAIN_PREFIXES if plain else PREFIXES), question, proper=proper)


def with_prefix(prefix: str, question: str, *, proper: bool = False) -> str:
    """The question after an opening. After a colon or comma it starts in lower case, unless it starts with a name."""
    if prefix.endswith((": ", ", ")) and not proper and not question.startswith("I "):
        question = question[0].lower() + question[1:]
    return prefix + question


def hasty(rng: Random, question: str) -> str:
    """The question as typed in haste: contracted or a mere noun phrase, often in lower case without an end mark."""
    if rng.random() < 0.2:
        question = _NOUN_PHRASE.sub(r"\1", question)
    elif rng.random() < 0.7:
        question = re.sub(r"^(What|Who) is ", r"\1's ", question)
        if rng.random() < 0.4:
            return question
    question = question.rstrip("?. ")
    if rng.random() < 0.5:
        question = question.lower().replace("what's", "whats").replace("who's", "whos")
    return question[0].lower() + question[1:]
