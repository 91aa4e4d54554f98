"""Identity: held-out questions to a model about itself, answered with its persona's name or maker."""

from __future__ import annotations

from collections.abc import Sequence

from nanochat.config import from_json, parse_json
from nanochat.paths import Paths
from nanochat.persona.conversations import held_out_questions
from nanochat.persona.persona import OURS, Persona, load_persona
from nanochat.tasks.checks import contains_phrase
from nanochat.tasks.task import RIGHT, Item, ItemSplit, Score, Task, user_item


def check_key(item: Item, text: str) -> Score:
    """Right if the text contains the name or the maker, whichever the question asks for."""
    return RIGHT if contains_phrase(text, item.answer) else Score(0.0, f"without {item.answer!r}")


def persona_of(paths: Paths) -> Persona:
    """The persona whose conversations `nanochat data identity` wrote last; ours if it wrote none."""
    if paths.persona.is_file():
        return from_json(Persona, parse_json(paths.persona.read_text(encoding="utf-8")))
    return load_persona(OURS)


def _items(paths: Paths, split: ItemSplit, seed: int) -> Sequence[Item]:
    if split != "test":
        raise ValueError(f"identity has no split {split!r}: train on `nanochat data identity` instead")
    persona = persona_of(paths)
    items = []
    for asked in held_out_questions():
        assert asked.topic.key
        items.append(user_item(asked.question, getattr(persona, asked.topic.key)))
    return items


IDENTITY = Task(
    name="identity", kind="generate", baseline=0.0, max_new_tokens=64, items=_items, check=check_key
)
