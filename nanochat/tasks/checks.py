"""Answer checks shared by several tasks, as pure functions of texts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from nanochat.tasks.task import RIGHT, WELL_FORMED, Item, Score

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_COMMON_WORDS = frozenset(
    ("as", "at", "be", "he", "in", "no", "on", "up", "off", "out", "over", "under", "all", "none", "many", "few",
     "more", "less", "most", "first", "last", "before", "after", "with", "yes")
)  # fmt: skip


def is_choice(item: Item, text: str) -> Score:
    """Right if the text is the letter of the right option; WELL_FORMED for the letter of another."""
    letter = text.strip()
    if letter == item.answer:
        return RIGHT
    return Score(WELL_FORMED, "another option") if letter in item.choices else Score(0.0, "not an option")


def contains_phrase(text: str, phrase: str) -> bool:
    """Whether the text contains the phrase as whole words, as written or with its first letter capitalised."""
    return re.search(_whole_words(phrase), text) is not None


def _whole_words(phrase: str) -> str:
    capitalised = phrase[:1].upper() + phrase[1:]
    forms = "|".join(re.escape(form) for form in dict.fromkeys((phrase, capitalised)))
    return rf"(?<![\w-])(?:{forms})(?![\w-])"


def without_name(text: str, name: str, answer: str) -> str:
    """The text without a name that contains the answer."""
    return re.sub(_whole_words(name), "", text) if name != answer and contains_phrase(name, answer) else text


def names_only(text: str, answers: Sequence[str], others: Iterable[str] = ()) -> Score:
    """Right if the text names one of the answers and no other candidate; WELL_FORMED if it names another.

    A leading "the" of a name may be left out. Candidates that are common words, as the symbol In and the opposite "on",
    count only as answers.
    """
    names = [answer.removeprefix("the ") for answer in answers]
    right = any(contains_phrase(text, name) for name in names)
    rest = re.sub("|".join(map(_whole_words, names)), "", text)
    wrong = (other.removeprefix("the ") for other in others if other.lower() not in _COMMON_WORDS)
    other = next((other for other in wrong if contains_phrase(rest, other)), None)
    if other is not None:
        return Score(WELL_FORMED, f"also names {other}" if right else f"names {other}")
    return RIGHT if right else Score(0.0, "names none of the candidates")


def last_number(text: str) -> float | None:
    """The last number written in digits, commas ignored; a minus right after a letter or digit is an operator."""
    found = None
    for match in _NUMBER.finditer(text):
        digits = match.group()
        if digits.startswith("-") and match.start() and text[match.start() - 1].isalnum():
            digits = digits[1:]
        found = to_number(digits)
    return found


def first_number(text: str) -> float | None:
    """The first whole number written in digits."""
    found = re.search(r"\d+", text)
    return float(found.group()) if found else None


def to_number(digits: str) -> float:
    """Parse a number, ignoring commas. Raises ValueError if it is not one."""
    return float(digits.replace(",", ""))


def is_number(found: float | None, answer: str) -> Score:
    """Right if the number found is the answer; WELL_FORMED for another number."""
    if found is None:
        return Score(0.0, "no number")
    return RIGHT if found == to_number(answer) else Score(WELL_FORMED, f"the number is {found:.15g}")
