"""SFT mixtures: `load_conversations("smoltalk+mmlu*3+gsm8k*4+identity")`, shuffled, made on demand."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from nanochat.console import warn
from nanochat.conversations.sources import SOURCES, ConversationSource, ConversationSplit, open_jsonl
from nanochat.paths import Paths
from nanochat.text.own_files import absolute
from nanochat.tokenizer.chat_format import Conversation

MAX_CONVERSATIONS = 100_000_000
"""Of a mixture, repeats included. Their order alone takes four bytes each, their tokens hundreds."""

_PART = re.compile(r"(?P<name>.+?)(?:\*(?P<repeats>\d+))?")


@dataclass(frozen=True)
class MixturePart:
    """One term of a mixture: all `conversations` of a source, `repeats` times."""

    name: str
    repeats: int
    conversations: Sequence[Conversation]
    dropped: Mapping[str, int]

    @property
    def size(self) -> int:
        """Conversations, repeats included."""
        return len(self.conversations) * self.repeats


class Mixture(Sequence[Conversation]):
    """All parts, repeated and shuffled together; an item is made when it is asked for.

    Raises ValueError beyond MAX_CONVERSATIONS.
    """

    def __init__(self, parts: Sequence[MixturePart], seed: int):
        self.parts = tuple(parts)
        ends = list(accumulate(part.size for part in parts))
        if ends[-1] > MAX_CONVERSATIONS:
            largest = max(parts, key=lambda part: part.size)
            raise ValueError(
                f"the mixture holds {ends[-1]:,} conversations, {largest.size:,} of them from {largest.name}, and at "
                f"most {MAX_CONVERSATIONS:,} can be shuffled: repeat less, or train for more --epochs"
            )
        self._ends = np.array(ends)
        # Generator.permutation, in half the memory.
        self._order = np.arange(ends[-1], dtype=np.uint32)
        np.random.default_rng(seed).shuffle(self._order)

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = int(self._order[index])
        part = int(np.searchsorted(self._ends, place, side="right"))
        conversations = self.parts[part].conversations
        return conversations[(place - int(self._ends[part])) % len(conversations)]


def load_conversations(
    mixture: str, paths: Paths, *, split: ConversationSplit = "train", seed: int = 0
) -> Mixture:
    """The conversations of a mixture, in an order that the seed decides.

    Args:
        mixture: names joined by `+`, each with `*n` to take it n times: those of SOURCES (`builtin:large` for
            another size), or the path of a .jsonl file of conversations.

    Raises ValueError for an unknown name, an unreadable mixture, and one that holds nothing or too much;
    EnvironmentFault if the hub cannot be reached.
    """
    if split not in ("train", "val"):
        raise ValueError(f"unknown split {split!r} of conversations: choose train or val")
    parts = []
    for name, repeats in _parse(mixture):
        source = _open(name, paths, split, seed)
        if source.dropped:
            reasons = ", ".join(f"{reason}: {count:,}" for reason, count in source.dropped.items())
            warn(f"{name}: {sum(source.dropped.values()):,} conversations dropped ({reasons})")
        parts.append(MixturePart(name, repeats, source.conversations, source.dropped))
    if not any(len(part.conversations) for part in parts):
        raise ValueError(f"the mixture {mixture!r} holds no conversation for the split {split!r}")
    return Mixture(parts, seed)


def absolute_mixture(mixture: str) -> str:
    """The same mixture with absolute paths of .jsonl files, so that it means the same in every folder.

    Raises ValueError for an unreadable mixture, and for a folder whose name would end a term.
    """
    terms = []
    for name, repeats in _parse(mixture):
        if name.endswith(".jsonl"):
            name = absolute(name)
            if "+" in name:
                raise ValueError(
                    f"a mixture cannot hold the path {name}, since + separates its terms: rename it"
                )
        terms.append(name if repeats == 1 else f"{name}*{repeats}")
    return "+".join(terms)


def _parse(mixture: str) -> list[tuple[str, int]]:
    matches = [_PART.fullmatch(term.strip()) for term in mixture.split("+")]
    terms = [(match["name"], int(match["repeats"] or 1)) for match in matches if match]
    if len(terms) < len(matches) or not all(repeats for _, repeats in terms):
        raise ValueError(f"cannot read the mixture {mixture!r}: write it as smoltalk+mmlu*3+my/chats.jsonl")
    return terms


def _open(name: str, paths: Paths, split: ConversationSplit, seed: int) -> ConversationSource:
    if name.endswith(".jsonl"):
        return open_jsonl(Path(name).expanduser(), split)
    kind, _, option = name.partition(":")
    if kind not in SOURCES or (option and kind != "builtin"):
        raise ValueError(
            f"unknown conversations {name!r}: choose from {', '.join(SOURCES)}, or give the path of a .jsonl file"
        )
    return SOURCES[kind](paths, split, seed, option)
