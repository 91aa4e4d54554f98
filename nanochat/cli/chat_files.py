"""Conversations on disk: one jsonl line in the format of SFT's data, so that a saved chat is training data too."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from nanochat.atomic import write_fault, write_text_atomic
from nanochat.config import json_line
from nanochat.paths import Paths, expanded
from nanochat.tokenizer.chat_format import Message

LAST = "last"
"""The name under which a conversation is kept after each answer, for `--continue`."""
_SUFFIX = ".jsonl"


def chat_path(name: str, paths: Paths) -> Path:
    """The file of a saved chat, by its name or a path that ends in .jsonl. Raises ValueError for a bad name."""
    return expanded(name) if name.endswith(_SUFFIX) else paths.chat(name)


def saved_chats(paths: Paths) -> list[str]:
    """The names of the saved chats."""
    return sorted(path.stem for path in paths.chats.glob(f"*{_SUFFIX}"))


def save_chat(path: Path, messages: Sequence[Message]) -> int:
    """Write a conversation without its turns whose answer is empty, which training would refuse; returns the turns.

    Writes nothing if no turn is left. The folder is made for its owner only. Raises EnvironmentFault if the file
    cannot be written.
    """
    system = [message for message in messages if message["role"] == "system"]
    dialogue = messages[len(system) :]
    turns = [pair for pair in zip(dialogue[::2], dialogue[1::2], strict=True) if all(map(_has_text, pair))]
    if turns:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise write_fault(path, error) from error
        whole = [*system, *(message for pair in turns for message in pair)]
        write_text_atomic(path, json_line({"messages": [dict(message) for message in whole]}) + "\n")
    return len(turns)


def load_chat(path: Path) -> Sequence[Message]:
    """The first conversation of a file. Raises ValueError if there is no file or no usable conversation in it."""
    from nanochat.conversations.sources import open_jsonl  # it imports every task

    return open_jsonl(path, "train").conversations[0]["messages"]


def is_one_chat(path: Path) -> bool:
    """Whether a file holds one line of text only: writing a chat to a file of more would lose the others."""
    with path.open("rb") as file:
        return len(list(islice(filter(bytes.strip, file), 2))) == 1


def _has_text(message: Message) -> bool:
    content = message["content"]
    texts = [content] if isinstance(content, str) else [part["text"] for part in content]
    return bool("".join(texts).strip())
