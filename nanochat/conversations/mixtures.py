"""SFT mixtures such as "smoltalk*0.5+mmlu*3+gsm8k*4+identity", shuffled, with items made on access."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from nanochat.console import table, warn
from nanochat.conversations.sources import SIZED, SOURCES, ConversationSource, ConversationSplit, open_jsonl
from nanochat.paths import Paths, expanded
from nanochat.text.own_files import absolute
from nanochat.tokenizer.chat_format import Conversation

MAX_CONVERSATIONS = 100_000_000
"""The limit of a mixture, repeats included. Its order alone takes four bytes per conversation, its tokens hundreds."""

_PART = re.compile(r"(?P<name>.+?)(?:\*(?P<repeats>\d+(?:\.\d+)?))?")


@dataclass(frozen=True)
class MixturePart:
    """One term of a mixture: a source's `conversations`, `repeats` times; the fraction is an even share of them."""

    name: str
    repeats: float
    conversations: Sequence[Conversation]
    dropped: Mapping[str, int]

    @property
    def size(self) -> int:
        """Conversations, repeats included."""
        return round(len(self.conversations) * self.repeats)

    def __getitem__(self, place: int) -> Conversation:
        """The conversation at a place, 0 to `size` - 1."""
        count = len(self.conversations)
        whole = count * int(self.repeats)
        if place < whole:
            return self.conversations[place % count]
        return self.conversations[(place - whole) * count // (self.size - whole)]


class Mixture(Sequence[Conversation]):
    """All parts, repeated and shuffled together; items are made on access.

    Raises ValueError beyond MAX_CONVERSATIONS.
    """

    def __init__(self, parts: Sequence[MixturePart], seed: int):
        self.parts = tuple(parts)
        ends = list(accumulate(part.size for part in parts))
        if ends[-1] > MAX_CONVERSATIONS:
            largest = max(parts, key=lambda part: part.size)
            raise ValueError(
                f"the mixture holds {ends[-1]:,} conversations, {largest.size:,} of them from {largest.name}; the "
                f"limit is {MAX_CONVERSATIONS:,}: repeat less, or train for more --epochs"
            )
        self._ends = np.array(ends)
        # Generator.permutation's result, in half the memory.
        self._order = np.arange(ends[-1], dtype=np.uint32)
        np.random.default_rng(seed).shuffle(self._order)

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = int(self._order[index])
        part = int(np.searchsorted(self._ends, place, side="right"))
        return self.parts[part][place - int(self._ends[part]) + self.parts[part].size]


def load_conversations(
    mixture: str, paths: Paths, *, split: ConversationSplit = "train", seed: int = 0
) -> Mixture:
    """The conversations of a mixture, shuffled by the seed.

    Args:
        mixture: terms joined by `+`, each a name in SOURCES (`builtin:large` for another size) or the path of a
            .jsonl file of conversations, with `*n` to take it n times (`*0.25`: a quarter of it).

    Raises ValueError for an unknown name, a malformed mixture, or one with no or too many conversations;
    EnvironmentFault if the hub cannot be reached.
    """
    if split not in ("train", "val"):
        raise ValueError(f"unknown split {split!r} of conversations: choose train or val")
    parts = []
    for name, repeats in _parse(mixture):
        source = _open(name, paths, split, seed)
        if source.dropped:
            warn(f"{name}: {sum(source.dropped.values()):,} conversations dropped: {source.complaint()}")
        parts.append(MixturePart(name, repeats, source.conversations, source.dropped))
    if not any(part.size for part in parts):
        raise ValueError(f"the mixture {mixture!r} holds no conversation for the split {split!r}")
    return Mixture(parts, seed)


def show_mixture(mixture: Mixture) -> None:
    """The parts of a mixture as a table on stderr."""
    rows = [
        [part.name, f"{len(part.conversations):,}", f"{part.repeats:g}", f"{part.size:,}",
         f"{part.size / len(mixture):.1%}", f"{sum(part.dropped.values()):,}"]
        for part in mixture.parts
    ]  # fmt: skip
    table("the mixture", ("source", "conversations", "times", "taken", "share", "dropped"), rows)


def absolute_mixture(mixture: str) -> str:
    """The mixture with absolute paths of .jsonl files, so that it does not depend on the working directory.

    Raises ValueError for a malformed mixture, or a folder whose name contains `+`.
    """
    terms = []
    for name, repeats in _parse(mixture):
        if name.endswith(".jsonl"):
            name = absolute(name)
            if "+" in name:
                raise ValueError(
                    f"a mixture cannot hold the path {name}, since + separates its terms: rename it"
                )
        terms.append(name if repeats == 1 else f"{name}*{np.format_float_positional(repeats, trim='-')}")
    return "+".join(terms)


def _parse(mixture: str) -> list[tuple[str, float]]:
    matches = [_PART.fullmatch(term.strip()) for term in mixture.split("+")]
    terms = [(match["name"], _number(match["repeats"] or "1")) for match in matches if match]
    if len(terms) < len(matches) or not all(repeats for _, repeats in terms):
        raise ValueError(f"cannot read the mixture {mixture!r}: write it as smoltalk+mmlu*3+my/chats.jsonl")
    return terms


def _number(text: str) -> int | float:
    return float(text) if "." in text else int(text)


def _open(name: str, paths: Paths, split: ConversationSplit, seed: int) -> ConversationSource:
    if name.endswith(".jsonl"):
        return open_jsonl(expanded(name), split)
    kind, _, option = name.partition(":")
    if kind not in SOURCES or (option and kind not in SIZED):
        raise ValueError(
            f"unknown conversations {name!r}: choose from {', '.join(SOURCES)}, or give the path of a .jsonl file"
        )
    return SOURCES[kind](paths, split, seed, option)
