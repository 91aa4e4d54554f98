"""SpellingBee: count a letter in a word with the tool; test pairs occur in no training text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from random import Random

from nanochat.builtin.letters import COUNT_QUESTIONS, sample_pair, tool_answer
from nanochat.builtin.lexicon import WORDS
from nanochat.paths import Paths
from nanochat.tasks.builtin_tasks import check_letter_count
from nanochat.tasks.on_demand import OnDemand
from nanochat.tasks.task import Item, ItemSplit, Task, answered, user_item
from nanochat.tokenizer.chat_format import Conversation

TEST_ITEMS = 256
_DRAWN_ITEMS: dict[ItemSplit, int] = {"train": 80_000, "val": 2_500}


def _items(paths: Paths, split: ItemSplit, seed: int) -> Sequence[Item]:
    words = word_list(paths)
    if split == "test":
        rng = Random("spellingbee")
        return [_item(rng, words, held_out=True) for _ in range(TEST_ITEMS)]
    return OnDemand(range(_DRAWN_ITEMS[split]), partial(_draw, words, split, seed))


def _draw(words: tuple[str, ...], split: ItemSplit, seed: int, index: int) -> Item:
    return _item(Random(f"spellingbee/{seed}/{split}/{index}"), words, held_out=split == "val")


def _item(rng: Random, words: tuple[str, ...], *, held_out: bool) -> Item:
    word, letter = sample_pair(rng, held_out=held_out, words=words)
    question = rng.choice(COUNT_QUESTIONS).format(w=word, l=letter)
    return user_item(question, str(word.count(letter)), meta={"word": word, "letter": letter})


def _conversation(item: Item) -> Conversation:
    return answered(item, tool_answer(item.meta["word"], item.meta["letter"]))


def word_list(paths: Paths) -> tuple[str, ...]:
    """The words of `task_data/words_alpha.txt` (one per line) if it exists, else the builtin ones."""
    path = paths.task_data / "words_alpha.txt"
    if not path.is_file():
        return WORDS
    words = path.read_text(encoding="utf-8").split()
    return tuple(word for word in words if word.isascii() and word.isalpha() and 3 <= len(word) <= 15)


SPELLINGBEE = Task(
    name="spellingbee",
    kind="generate",
    baseline=0.0,
    max_new_tokens=512,
    items=_items,
    check=check_letter_count,
    conversation=_conversation,
)
