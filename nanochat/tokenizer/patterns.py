"""Split patterns: how text is split into chunks before byte pairs are merged; no token spans two chunks.

They have the same meaning in fancy-regex (tiktoken, rustbpe), Oniguruma (HF tokenizers) and Python's `regex` in its
version-1 syntax. Each matches every character of every text: skipped characters would be lost.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class SplitPattern:
    """A preset: the regular expression, and when to choose it."""

    regex: str
    reason: str


def _pattern(letters: str, digits: str, *, word: str = "", runs: str = "", ending: str = "") -> str:
    """The alternatives of GPT-4's pattern, tried in this order.

    `letters`: the characters of words, as the inside of a character class; `word`: a pattern instead of a run of
    letters; `runs`: alternatives tried before words; `ending`: one tried before those for blanks.
    """
    alternatives = (
        r"'(?i:[sdmt]|ll|ve|re)",  # an English contraction
        runs,
        rf"[^\r\n{letters}\p{{N}}]?+{word or f'[{letters}]+'}",  # a word, with the space or sign before it
        digits,
        rf" ?[^\s{letters}\p{{N}}]++[\r\n]*",  # symbols
        ending,
        r"\s*[\r\n]",  # line ends with the blanks before them
        r"\s+(?!\S)",  # blanks, all but the last, which belongs to the word that follows
        r"\s+",
    )
    return "|".join(alternative for alternative in alternatives if alternative)


# Scripts without spaces between words. The long-vowel mark ー has no script in Unicode; it belongs to Katakana.
_UNSPACED = (
    *(rf"\p{{{name}}}" for name in ("Han", "Hiragana", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan")),
    r"\p{Katakana}ー",
)

SPLIT_PATTERNS: dict[str, SplitPattern] = {
    "default": SplitPattern(
        _pattern(r"\p{L}", r"\p{N}{1,2}"),
        "English and code: GPT-4's, with digits in twos, so that numbers take less of a small vocabulary",
    ),
    "gpt4": SplitPattern(
        _pattern(r"\p{L}", r"\p{N}{1,3}", ending=r"\s++$"),  # a text's last blanks stay together
        "as GPT-4 (cl100k), digits in threes: for comparisons, and for vocabularies of 50,000 and more",
    ),
    "digits": SplitPattern(
        _pattern(r"\p{L}", r"\p{N}"),
        "as default, but every digit alone: for models that must calculate without a tool",
    ),
    "marks": SplitPattern(
        _pattern(r"\p{L}\p{M}", r"\p{N}{1,2}"),
        "Hindi, Bengali, Tamil, Thai, vowelled Arabic: vowel signs belong to their word instead of ending it",
    ),
    "scripts": SplitPattern(
        _pattern(
            r"\p{L}\p{M}",
            r"\p{N}{1,2}",
            word=rf"[\p{{L}}\p{{M}}&&[^{''.join(_UNSPACED)}]]+",
            runs="|".join(f" ?[{script}]+" for script in _UNSPACED),
        ),
        "Japanese, Chinese or Thai among Latin words: as marks, and no token mixes scripts; up to 9 % more tokens",
    ),
}


def split_pattern(name: str) -> str:
    """The regular expression of the preset `name`. Raises ValueError for an unknown one."""
    if name not in SPLIT_PATTERNS:
        raise ValueError(f"unknown split pattern {name!r}: choose one of {', '.join(SPLIT_PATTERNS)}")
    return SPLIT_PATTERNS[name].regex
