"""Sources of SFT conversations: sequences that make their items on access.

A source is opened by `(paths, split, seed, option) -> ConversationSource`, split "train" or "val"; nothing is
downloaded or read before that. Benchmarks define their own conversations (nanochat.tasks).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Literal

from nanochat import builtin
from nanochat.builtin import letters, talk
from nanochat.builtin.dialogues import conversation, exercise_turn
from nanochat.builtin.exercises import Turn
from nanochat.builtin.holdout import held_out_wording
from nanochat.config import parse_json
from nanochat.conversations.formats import fault, messages_of
from nanochat.hub.split_rows import hub_rows
from nanochat.paths import Paths
from nanochat.tasks.on_demand import OnDemand
from nanochat.tasks.registry import TASKS
from nanochat.tasks.spellingbee import word_list
from nanochat.tasks.task import Task
from nanochat.tokenizer.chat_format import Conversation

ConversationSplit = Literal["train", "val"]

IDENTITY_COUNT = 1_000
SPELLING_COUNT = 200_000
VAL_EVERY = 32
"""Every n-th conversation is held out if a source has no validation split."""


@dataclass(frozen=True)
class ConversationSource:
    """A source's usable conversations; `dropped` counts the others by reason, `first_lines` says where in a file the
    first of each is."""

    conversations: Sequence[Conversation]
    dropped: Mapping[str, int] = field(default_factory=dict)
    first_lines: Mapping[str, int] = field(default_factory=dict)

    def complaint(self) -> str:
        """The reasons for what was dropped, in one line; empty if nothing was."""
        return ", ".join(
            f"{count:,} x {reason}"
            + (f" (line {self.first_lines[reason]})" if reason in self.first_lines else "")
            for reason, count in self.dropped.items()
        )


OpenSource = Callable[[Paths, ConversationSplit, int, str], ConversationSource]


def _without_fault(faults: Iterable[tuple[int, str | None]]) -> tuple[list[int], Counter[str]]:
    """The keys without a fault, and the count of each fault."""
    keys, counts = [], Counter[str]()
    for key, reason in faults:
        if reason is None:
            keys.append(key)
        else:
            counts[reason] += 1
    return keys, counts


# --- generated ---------------------------------------------------------------------------------------------------


def _builtin(paths: Paths, split: ConversationSplit, seed: int, option: str) -> ConversationSource:
    return ConversationSource(builtin.conversations(option or "small", seed, split))


def _nameless(paths: Paths, split: ConversationSplit, seed: int, option: str) -> ConversationSource:
    """The builtin conversations in which nanochat does not speak of itself, for a model with another identity."""
    own = {intent.reply for intent in talk.IDENTITY}
    kept = [
        chat
        for chat in builtin.conversations(option or "small", seed, split)
        if not any(message["content"] in own for message in chat["messages"][1::2] if _is_text(message))
    ]
    return ConversationSource(kept)


def _is_text(message: Mapping[str, Any]) -> bool:
    return isinstance(message["content"], str)


def _drawn(name: str, count: int, turn: Callable[[Random, bool, tuple[str, ...]], Turn]) -> OpenSource:
    """A source that draws each item with a separate generator, from the split's side of the hold-out."""

    def source(paths: Paths, split: ConversationSplit, seed: int, option: str) -> ConversationSource:
        draw = partial(_draw, turn, name, seed, split, word_list(paths))
        return ConversationSource(OnDemand(range(count if split == "train" else count // VAL_EVERY), draw))

    return source


def _draw(
    turn: Callable[[Random, bool, tuple[str, ...]], Turn],
    name: str,
    seed: int,
    split: ConversationSplit,
    words: tuple[str, ...],
    index: int,
) -> Conversation:
    rng = Random(f"{name}/{seed}/{split}/{index}")
    return conversation([turn(rng, split == "val", words)])


def _identity_turn(rng: Random, held_out: bool, words: tuple[str, ...]) -> Turn:
    return exercise_turn("identity", rng, held_out)


_drawn_identity = _drawn("identity", IDENTITY_COUNT, _identity_turn)


def _spelling_turn(rng: Random, held_out: bool, words: tuple[str, ...]) -> Turn:
    while True:
        word, core = rng.choice(words), rng.choice(letters.SPELL_QUESTIONS)
        if held_out_wording("spell", word, core) == held_out:
            return core.format(w=word), letters.spelling_answer(word)


# --- from files --------------------------------------------------------------------------------------------------


def open_jsonl(path: Path, split: ConversationSplit) -> ConversationSource:
    """Conversations of a file, one per line, in any format of nanochat.conversations.formats.

    Keeps only the lines' offsets in memory. Raises ValueError if the file is missing or holds none.
    """
    if not path.is_file():
        raise ValueError(f"no conversations at {path}: give the path of a .jsonl file")
    offsets: list[int] = []
    dropped, first_lines = Counter[str](), dict[str, int]()
    for number, offset, reason in _lines(path):
        if reason is None:
            offsets.append(offset)
        else:
            dropped[reason] += 1
            first_lines.setdefault(reason, number)
    source = ConversationSource(
        OnDemand(_share(offsets, split), partial(_read_line, path)), dropped, first_lines
    )
    if not offsets:
        raise ValueError(
            f"no conversation in {path} ({source.complaint() or 'it is empty'}): each line must be "
            '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'
        )
    return source


def _share(keys: Sequence[int], split: ConversationSplit) -> Sequence[int]:
    """The keys of one split; in a small file the last one is for validation."""
    every = max(2, min(VAL_EVERY, len(keys)))
    return [key for i, key in enumerate(keys, start=1) if (i % every == 0) == (split == "val")]


def _lines(path: Path) -> Iterator[tuple[int, int, str | None]]:
    """(number, offset, what is wrong or None) of every line that is not blank."""
    with open(path, "rb") as file:
        offset = 0
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, offset, _line_fault(line)
            offset += len(line)


def _line_fault(line: bytes) -> str | None:
    try:
        value = parse_json(line)
    except ValueError:
        return "malformed line"
    try:
        messages_of(value)
    except ValueError as error:
        return str(error)
    return None


def _read_line(path: Path, offset: int) -> Conversation:
    with open(path, "rb") as file:
        file.seek(offset)
        return {"messages": messages_of(parse_json(file.readline()))}


def _identity(paths: Paths, split: ConversationSplit, seed: int, option: str) -> ConversationSource:
    """The user's `identity_conversations.jsonl` if it exists, else the builtin identity conversations."""
    if paths.identity.is_file():
        return open_jsonl(paths.identity, split)
    return _drawn_identity(paths, split, seed, option)


# --- from the hub and from tasks ---------------------------------------------------------------------------------


def _smoltalk(paths: Paths, split: ConversationSplit, seed: int, option: str) -> ConversationSource:
    part = {"train": "train", "val": "test"}[split]
    rows = hub_rows("HuggingFaceTB/smol-smoltalk", "default", part, paths, ["messages"])
    keys, dropped = _without_fault((i, fault(row["messages"])) for i, row in enumerate(rows))
    return ConversationSource(OnDemand(keys, rows.__getitem__), dropped)


def _of_task(task: Task) -> OpenSource:
    """The training conversations of a task's items."""
    assert task.conversation is not None, f"{task.name} has no training data"
    make = task.conversation

    def source(paths: Paths, split: ConversationSplit, seed: int, option: str) -> ConversationSource:
        return ConversationSource(OnDemand(task.items(paths, split, seed), make))

    return source


SOURCES: dict[str, OpenSource] = {
    "builtin": _builtin,
    "nameless": _nameless,
    "smoltalk": _smoltalk,
    "identity": _identity,
    "spelling": _drawn("spelling", SPELLING_COUNT, _spelling_turn),
    **{name: _of_task(task) for name, task in TASKS.items() if task.conversation},
}

SIZED = ("builtin", "nameless")
"""Sources that take a size, as `builtin:large`."""
