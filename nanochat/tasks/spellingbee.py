"""SpellingBee: how often a letter occurs in a word, to be counted with the tool; pairs that no training text has."""

from __future__ import annotations

from random import Random

from nanochat.data.builtin.letters import COUNT_QUESTIONS, sample_pair
from nanochat.data.conversation_sources import word_list
from nanochat.paths import Paths
from nanochat.tasks.base import Item, Task, user_item
from nanochat.tasks.builtin import check_letter_count

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
