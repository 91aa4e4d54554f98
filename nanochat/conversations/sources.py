"""Where SFT conversations come from: a table of sources, each a sequence that makes its items when asked.

A source is `(paths, split, seed, option) -> ConversationSource`; its split is "train" or "val". Nothing is fetched
or read before the source is asked for.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat import builtin
from nanochat.builtin import letters
from nanochat.builtin.choice import LETTERS, choice_prompt
from nanochat.builtin.dialogues import Turn, conversation, identity_turn
from nanochat.builtin.holdout import held_out_wording
from nanochat.hub import hub_parquet_files
from nanochat.paths import Paths
from nanochat.sandbox.calculator import evaluate
from nanochat.tasks.spellingbee import word_list

Conversation = dict[str, Any]

IDENTITY_COUNT = 1_000
SPELLING_COUNT = 200_000
SPELLINGBEE_COUNT = 80_000
VAL_EVERY = 32
"""Where a source has no validation split of its own, one conversation in so many is it."""

_PART_TYPES = ("text", "python", "python_output")
_GSM8K_CALL = re.compile(r"<<([^<>=]+)=([^<>]*)>>")


class Rows(Sequence[Conversation]):
    """Conversations made on demand: item i is `make(keys[i])`. Holds the keys only."""

    def __init__(self, keys: Sequence[int], make: Callable[[int], Conversation]):
        self._keys = keys
        self._make = make

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return Rows(self._keys[index], self._make)
        return self._make(self._keys[index])


@dataclass(frozen=True)
class ConversationSource:
    """`dropped` counts what was there but is no conversation to learn from, by reason."""

    conversations: Sequence[Conversation]
    dropped: Mapping[str, int] = field(default_factory=dict)


def fault(messages: object) -> str | None:
    """Why these messages are no conversation to learn from; None when they are.

    One is: an optional system message, then user and assistant in turn, the assistant last, none empty.
    """
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return "no list of messages"
    roles = [message.get("role") for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if not turns or turns != ["user", "assistant"] * (len(turns) // 2):
        return "roles out of turn"
    texts = [_text(message) for message in messages]
    if None in texts:
        return "content that is no text"
    return None if all(text and text.strip() for text in texts) else "empty message"


def _text(message: Mapping[str, Any]) -> str | None:
    """All the text of a message; None where it is of another shape than the chat format's."""
    content = message.get("content")
    if isinstance(content, list) and message["role"] == "assistant":
        if not all(isinstance(part, dict) and part.get("type") in _PART_TYPES for part in content):
            return None
        texts = [part.get("text") for part in content]
        return "".join(texts) if all(isinstance(text, str) for text in texts) else None
    return content if isinstance(content, str) else None


def _sound(numbered: Iterable[tuple[int, object]]) -> tuple[list[int], Counter[str]]:
    """The keys of the messages that are without fault, and the faults of the others."""
    keys, faults = [], Counter[str]()
    for key, messages in numbered:
        reason = fault(messages)
        if reason is None:
            keys.append(key)
        else:
            faults[reason] += 1
    return keys, faults


def _share(keys: Sequence[int], split: str) -> Sequence[int]:
    """The keys of one split; of a handful the last is for validation."""
    every = max(2, min(VAL_EVERY, len(keys)))
    return [key for i, key in enumerate(keys, start=1) if (i % every == 0) == (split == "val")]


# --- made here ---------------------------------------------------------------------------------------------------


def _builtin(paths: Paths, split: str, seed: int, option: str) -> ConversationSource:
    return ConversationSource(builtin.conversations(option or "small", seed, split))


def _made(
    name: str, count: int, turn: Callable[[Random, bool, tuple[str, ...]], Turn]
) -> Callable[[Paths, str, int, str], ConversationSource]:
    """A source whose item i is drawn with a generator of its own, from the side of the hold-out its split names."""

    def source(paths: Paths, split: str, seed: int, option: str) -> ConversationSource:
        make = partial(_draw, turn, name, seed, split, word_list(paths))
        return ConversationSource(Rows(range(count if split == "train" else count // VAL_EVERY), make))

    return source


def _draw(turn, name: str, seed: int, split: str, words: tuple[str, ...], index: int) -> Conversation:
    rng = Random(f"{name}/{seed}/{split}/{index}")
    return conversation([turn(rng, split == "val", words)])


def _identity_turn(rng: Random, held_out: bool, words: tuple[str, ...]) -> Turn:
    return identity_turn(rng, held_out)


_made_identity = _made("identity", IDENTITY_COUNT, _identity_turn)


def _spelling_turn(rng: Random, held_out: bool, words: tuple[str, ...]) -> Turn:
    while True:
        word, core = rng.choice(words), rng.choice(letters.SPELL_QUESTIONS)
        if held_out_wording("spell", word, core) == held_out:
            return core.format(w=word), letters.spelling_answer(word)


def _count_turn(rng: Random, held_out: bool, words: tuple[str, ...]) -> Turn:
    word, letter = letters.sample_pair(rng, held_out=held_out, words=words)
    return rng.choice(letters.COUNT_QUESTIONS).format(w=word, l=letter), letters.tool_answer(word, letter)


# --- from files --------------------------------------------------------------------------------------------------


def open_jsonl(path: Path, split: str) -> ConversationSource:
    """Conversations of a file, one a line, as `{"messages": [...]}` or as the list alone.

    Only the lines' places are kept in memory. Raises ValueError where the file is missing or holds none.
    """
    if not path.is_file():
        raise ValueError(f"no conversations at {path}: give the path of a .jsonl file")
    keys, dropped = _sound(_read_lines(path))
    if not keys:
        raise ValueError(
            f"no conversation in {path} ({_counts(dropped)}): each line must be "
            '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'
        )
    return ConversationSource(Rows(_share(keys, split), partial(_read_line, path)), dropped)


def _counts(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{count} x {reason}" for reason, count in dropped.items()) or "it is empty"


def _read_lines(path: Path) -> Iterator[tuple[int, object]]:
    with open(path, "rb") as file:
        offset = 0
        for line in file:
            if line.strip():
                yield offset, _messages(line)
            offset += len(line)


def _read_line(path: Path, offset: int) -> Conversation:
    with open(path, "rb") as file:
        file.seek(offset)
        return {"messages": _messages(file.readline())}


def _messages(line: bytes) -> object:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value.get("messages") if isinstance(value, dict) else value


def _identity(paths: Paths, split: str, seed: int, option: str) -> ConversationSource:
    """The user's own `identity_conversations.jsonl` if there is one, else what we know of ourselves."""
    if paths.identity.is_file():
        return open_jsonl(paths.identity, split)
    return _made_identity(paths, split, seed, option)


# --- from the hub ------------------------------------------------------------------------------------------------


def _hub_table(repo: str, config: str, split: str, paths: Paths, columns: list[str]) -> pa.Table:
    files = hub_parquet_files(repo, config, split, paths)
    return pa.concat_tables([pq.read_table(file, columns=columns) for file in files])


def _row(table: pa.Table, make: Callable[[dict[str, Any]], Conversation], index: int) -> Conversation:
    return make(table.slice(index, 1).to_pylist()[0])


def _smoltalk(paths: Paths, split: str, seed: int, option: str) -> ConversationSource:
    part = {"train": "train", "val": "test"}[split]
    table = _hub_table("HuggingFaceTB/smol-smoltalk", "default", part, paths, ["messages"])
    rows = (messages for batch in table.to_batches() for messages in batch.column(0).to_pylist())
    keys, dropped = _sound(enumerate(rows))
    return ConversationSource(Rows(keys, partial(_row, table, dict)), dropped)


def _mmlu(paths: Paths, split: str, seed: int, option: str) -> ConversationSource:
    part = {"train": "auxiliary_train", "val": "validation"}[split]
    table = _hub_table("cais/mmlu", "all", part, paths, ["question", "choices", "answer"])
    return ConversationSource(Rows(range(len(table)), partial(_row, table, mmlu_conversation)))


def mmlu_conversation(row: dict[str, Any]) -> Conversation:
    """A question with lettered choices, answered by the letter."""
    return conversation([(choice_prompt(row["question"], row["choices"]), LETTERS[row["answer"]])])


def _gsm8k(paths: Paths, split: str, seed: int, option: str) -> ConversationSource:
    part = {"train": "train", "val": "test"}[split]
    table = _hub_table("openai/gsm8k", "main", part, paths, ["question", "answer"])
    return ConversationSource(Rows(range(len(table)), partial(_row, table, gsm8k_conversation)))


def gsm8k_conversation(row: dict[str, Any]) -> Conversation:
    """A word problem, solved with calls of the tool and ended by `#### ` and the answer."""
    return conversation([(row["question"], solution_parts(row["answer"]))])


def solution_parts(solution: str) -> list[dict[str, str]]:
    """GSM8K's `<<48/2=24>>` as calls of the tool with the output that our own tool gives, the rest as text."""
    parts: list[dict[str, str]] = []
    for i, piece in enumerate(_GSM8K_CALL.split(solution)):  # text, expression, result, text, …
        if i % 3 == 0 and piece:
            parts.append({"type": "text", "text": piece})
        elif i % 3 == 1:
            parts.append({"type": "python", "text": piece})
        elif i % 3 == 2:
            parts.append({"type": "python_output", "text": evaluate(parts[-1]["text"]) or piece})
    return parts


SOURCES: dict[str, Callable[[Paths, str, int, str], ConversationSource]] = {
    "builtin": _builtin,
    "smoltalk": _smoltalk,
    "mmlu": _mmlu,
    "gsm8k": _gsm8k,
    "identity": _identity,
    "spelling": _made("spelling", SPELLING_COUNT, _spelling_turn),
    "spellingbee": _made("spellingbee", SPELLINGBEE_COUNT, _count_turn),
}
