"""Rules that a document must pass, as a table: a figure of its text and the bounds for it.

The figures count words between spaces: skip `words` and `word-length` for scripts without them.

Sources: `placeholder` is C4's (Raffel et al. 2020, arXiv 1910.10683, section 2.2), all others are Gopher's (Rae et al.
2021, arXiv 2112.11446, appendix A.1.1), without its stop words, which are English.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

_BULLETS = ("•", "‣", "●", "*", "-")
_LETTER = re.compile(r"[^\W\d_]")


class TextFigures:
    """What the rules count in a document."""

    def __init__(self, text: str):
        self.text = text

    @cached_property
    def words(self) -> list[str]:
        """What stands between spaces."""
        return self.text.split()

    @cached_property
    def lines(self) -> list[str]:
        """The lines that are not blank, without indentation."""
        return [line for line in map(str.strip, self.text.splitlines()) if line]

    @cached_property
    def distinct_lines(self) -> set[str]:
        """Each of them once."""
        return set(self.lines)

    def word_length(self) -> float:
        """Mean characters of a word."""
        return sum(map(len, self.words)) / max(len(self.words), 1)

    def symbols(self) -> float:
        """Hashes or ellipses per word, whichever are more."""
        ellipses = self.text.count("...") + self.text.count("…")
        return max(self.text.count("#"), ellipses) / max(len(self.words), 1)

    def alphabetic(self) -> float:
        """The share of words with a letter."""
        lettered = sum(1 for word in self.words if word.isalpha() or _LETTER.search(word))
        return lettered / max(len(self.words), 1)

    def bullets(self) -> float:
        """The share of lines that begin with a bullet."""
        return self._share([line for line in self.lines if line.startswith(_BULLETS)])

    def ellipses(self) -> float:
        """The share of lines that end with an ellipsis."""
        return self._share([line for line in self.lines if line.endswith(("...", "…"))])

    def repeated(self) -> float:
        """The share of lines that repeat an earlier one."""
        return (len(self.lines) - len(self.distinct_lines)) / max(len(self.lines), 1)

    def repeated_characters(self) -> float:
        """The share of characters in such lines."""
        characters = sum(map(len, self.lines))
        return (characters - sum(map(len, self.distinct_lines))) / max(characters, 1)

    def _share(self, lines: list[str]) -> float:
        return len(lines) / max(len(self.lines), 1)


@dataclass(frozen=True)
class QualityRule:
    """A document passes if `least` <= figure <= `most`."""

    figure: Callable[[TextFigures], float]
    least: float
    most: float

    def passes(self, figures: TextFigures) -> bool:
        """Whether a document passes."""
        return self.least <= self.figure(figures) <= self.most


RULES: dict[str, QualityRule] = {
    "words": QualityRule(lambda figures: len(figures.words), 50, 100_000),
    "placeholder": QualityRule(lambda figures: figures.text.lower().count("lorem ipsum"), 0, 0),
    "word-length": QualityRule(TextFigures.word_length, 3, 10),
    "symbols": QualityRule(TextFigures.symbols, 0, 0.1),
    "bullets": QualityRule(TextFigures.bullets, 0, 0.9),
    "ellipses": QualityRule(TextFigures.ellipses, 0, 0.3),
    "repeated-lines": QualityRule(TextFigures.repeated, 0, 0.3),
    "repeated-characters": QualityRule(TextFigures.repeated_characters, 0, 0.2),
    "alphabetic": QualityRule(TextFigures.alphabetic, 0.8, 1),
}
"""In the order in which they are tried: the first that a document fails counts it."""


def failed_rule(text: str, names: Sequence[str] = tuple(RULES)) -> str | None:
    """The first of the rules `names` that `text` fails, or None."""
    figures = TextFigures(text)
    return next((name for name in names if not RULES[name].passes(figures)), None)
