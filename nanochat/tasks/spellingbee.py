"""SpellingBee: how often a letter occurs in a word, to be counted with the tool; pairs that no training text has."""

from __future__ import annotations

from random import Random

from nanochat.builtin.letters import COUNT_QUESTIONS, sample_pair
from nanochat.builtin.lexicon import WORDS
from nanochat.paths import Paths
from nanochat.tasks.builtin_tasks import check_letter_count
from nanochat.tasks.task import Item, Task, user_item

ITEMS = 256


def spellingbee(paths: Paths) -> Task:
    rng = Random("spellingbee")
    words = word_list(paths)
    items = [_item(rng, words) for _ in range(ITEMS)]
    return Task("spellingbee", "generate", 0.0, items, check_letter_count, max_new_tokens=512)


def _item(rng: Random, words: tuple[str, ...]) -> Item:
    word, letter = sample_pair(rng, held_out=True, words=words)
    question = rng.choice(COUNT_QUESTIONS).format(w=word, l=letter)
    return user_item(question, str(word.count(letter)), meta={"word": word, "letter": letter})


def word_list(paths: Paths) -> tuple[str, ...]:
    """Words to spell: those of `task_data/words_alpha.txt` (one a line) if it is there, else the builtin ones."""
    path = paths.task_data / "words_alpha.txt"
    if not path.is_file():
        return WORDS
    words = path.read_text(encoding="utf-8").split()
    return tuple(word for word in words if word.isascii() and word.isalpha() and 3 <= len(word) <= 15)
