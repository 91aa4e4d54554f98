"""The hold-out rule: which combinations never occur in training.

Every evaluation item is a combination of parts that training teaches separately: a fact and a wording, two
numbers and an operation, a word and a letter. A stable hash of the parts decides, so the decision is the same
on every machine, for every seed and every size. A generator asks before it writes a combination.
"""

from __future__ import annotations

import re
from functools import cache
from hashlib import sha256

_SALT = "nanochat-builtin-1"
_OPENING = re.compile(
    r"^(?:(?:please|okay,|thanks!|sorry,|oh,|no,|and|can you|do you know|tell me|how do (?:you|we)|i wonder|"
    r"what do you get if you) )+",
    re.I,
)
_CLOSING = re.compile(r"(?:,? please| for me)?[?.!]*$")


def bucket(*parts: str) -> int:
    """A stable 32-bit hash of a combination."""
    text = "\x1f".join((_SALT, *parts))
    return int.from_bytes(sha256(text.encode()).digest()[:4], "big")


@cache
def plain(core: str) -> str:
    """A wording without quotation marks, polite words around it and its end mark.

    Wordings that differ in nothing else are held out together: one of them would be found inside another.
    """
    text = _CLOSING.sub("", _OPENING.sub("", core.replace('"', "").replace("'{w}'", "{w}")), count=1)
    return text[:1].upper() + text[1:]


@cache
def held_out_fact(relation: str, subject: str, core: str) -> bool:
    """Whether training never asks for this fact with this question core (one in eight)."""
    return bucket("fact", relation, subject, plain(core)) % 8 == 0


def held_out_sum(a: int, op: str, b: int) -> bool:
    """Whether no training text computes `a op b`, `op` one of + - * / (one in sixteen).

    Sums and products are held out in both orders. Small cases (an operand below 3, or both below 10) are never
    held out: doubling, counting up and the multiplication tables are taught as facts.
    """
    if min(a, b) < 3 or max(a, b) < 10:
        return False
    if op in "+*":
        a, b = min(a, b), max(a, b)
    return bucket("sum", str(a), op, str(b)) % 16 == 0


@cache
def held_out_letter(word: str, letter: str) -> bool:
    """Whether no training text counts this letter in this word (one in eight)."""
    return bucket("letter", word, letter) % 8 == 0


@cache
def held_out_wording(kind: str, subject: str, core: str) -> bool:
    """Whether training never asks `core` about `subject` (one in six): spelling, identity, small talk, refusals."""
    return bucket(kind, subject, plain(core)) % 6 == 0


def validation_document(text: str) -> bool:
    """Whether a document belongs to the validation split (one in sixteen)."""
    return bucket("document", text) % 16 == 0
