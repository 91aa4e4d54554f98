"""Words and their letters: spelling, counting, and the documents that teach both.

Words stand in double quotes because of the tokenizer's split pattern: a word after a double quote has the same
tokens everywhere, in a question or in code (`'s` would be split off as a contraction).
"""

from __future__ import annotations

from random import Random

from nanochat.builtin.everyday import number_word
from nanochat.builtin.holdout import held_out_letter
from nanochat.builtin.lexicon import WORDS

_ALPHABET = "abcdefghijklmnopqrstuvwxyz"

COUNT_QUESTIONS: tuple[str, ...] = (
    'How many times does the letter {l} occur in "{w}"?',
    'How many times is the letter {l} in "{w}"?',
    'How many times does {l} appear in "{w}"?',
    'Count the letter {l} in "{w}".',
    'How often does {l} occur in the word "{w}"?',
    'How many letters {l} are in "{w}"?',
    'How many {l} are there in "{w}"?',
    'In "{w}", how many times do you see {l}?',
    'How many "{l}" are in "{w}"?',
    "How many {l}'s are in '{w}'?",
    "How many {l} are in the word '{w}'?",
    "How many {l}'s are in {w}?",
    "How many {l} are in {w}?",
    "How many {l} in {w}?",
    "How many times does {l} occur in {w}?",
    "Count the {l}'s in the word {w}.",
)

SPELL_QUESTIONS: tuple[str, ...] = (
    'How do you spell "{w}"?',
    'Spell "{w}".',
    'Spell the word "{w}".',
    'How is "{w}" spelled?',
    'Please spell "{w}" for me.',
    'What letters are in "{w}"?',
    'Write "{w}" letter by letter.',
    "How do you spell {w}?",
    "Spell {w}.",
    "Spell the word {w}, please.",
    "How is the word {w} spelled?",
    "Can you spell {w}?",
)


def spell(word: str) -> str:
    """The word's letters joined by hyphens."""
    return "-".join(word)


def spelling_answer(word: str) -> str:
    """The reply to a request to spell `word`."""
    return f'"{word}" is spelled {spell(word)}.'


def count_code(word: str, letter: str) -> str:
    """The expression that counts a letter, for the Python tool."""
    return f'"{word}".count("{letter}")'


def count_answer(word: str, letter: str) -> str:
    """The reply to the question how often `letter` occurs in `word`."""
    n = word.count(letter)
    return f'The letter {letter} occurs {n} {"time" if n == 1 else "times"} in "{word}".'


def sample_pair(rng: Random, *, held_out: bool = False, words: tuple[str, ...] = WORDS) -> tuple[str, str]:
    """A random word and letter, from the training or the held-out side; three of four letters occur in their word."""
    while True:
        word = rng.choice(words)
        letter = rng.choice(word if rng.random() < 0.75 else _ALPHABET)
        if held_out_letter(word, letter) == held_out:
            return word, letter


def tool_answer(word: str, letter: str) -> list[dict[str, str]]:
    """The assistant's content parts: the tool call, its output, the answer."""
    return [
        {"type": "python", "text": count_code(word, letter)},
        {"type": "python_output", "text": str(word.count(letter))},
        {"type": "text", "text": count_answer(word, letter)},
    ]


def _about(rng: Random, word: str) -> str:
    """A few sentences on one word. Every opening quote follows a space, so that no token joins quote and word."""
    _, letter = sample_pair(rng, words=(word,))
    count = word.count(letter)
    spelled = (
        f"The word {word} is spelled {spell(word)}.",
        f'We spell "{word}" as {spell(word)}.',
        f"Letter by letter, {word} is {spell(word)}.",
        f'In letters, "{word}" is {spell(word)}.',
    )
    others = (
        f'The word {word} in quotes is "{word}".',
        f'The word "{word}" has {number_word(len(word))} letters.',
        f'The word "{word}" begins with {word[0]} and ends with {word[-1]}.',
        f"To count {letter} in {word}, type {count_code(word, letter)} and read {count}.",
        f'For the letter {letter} in "{word}" we type {count_code(word, letter)} and read {count}.',
        count_answer(word, letter),
    )
    return " ".join([*rng.sample(spelled, rng.randint(1, 2)), *rng.sample(others, rng.randint(1, 2))])


def word_study(rng: Random) -> str:
    """A document about the letters of a few words."""
    heading = rng.choice(("", "", "Words and letters. ", "We learn to spell. ", "Spelling lesson. "))
    return heading + " ".join(_about(rng, word) for word in rng.sample(WORDS, rng.randint(3, 7)))
