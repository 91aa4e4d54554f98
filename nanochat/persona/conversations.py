"""Conversations in which a model is asked about itself, from a persona; and the questions held out of them.

The hold-out is by wording and opening, as in the builtin world (nanochat.builtin.holdout), and some wordings occur in
the held-out questions only. It does not depend on the persona.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from nanochat.builtin.holdout import held_out_wording
from nanochat.builtin.phrasing import PREFIXES, with_prefix
from nanochat.persona.persona import Persona
from nanochat.persona.topics import GREETINGS, TOPICS, Topic

HELD_OUT_QUESTIONS = 100


@dataclass(frozen=True)
class Asked:
    """A question about the model: its text, the topic, and a reply as a template over a persona."""

    question: str
    topic: Topic
    reply: str


Spoken = tuple[str, str, Asked | None]
"""A turn: question, reply, and what was asked (None: a greeting)."""


def draw(rng: Random, persona: Persona) -> list[Spoken]:
    """One training conversation."""
    turns: list[Spoken] = []
    if rng.random() < 0.2:
        hello, reply = rng.choice(GREETINGS)
        turns.append((persona.fill(hello), persona.fill(reply), None))
    for topic in rng.sample(
        TOPICS, rng.choice((1, 1, 1, 2, 2, 3)), counts=[_weight(topic) for topic in TOPICS]
    ):
        asked = _training_question(rng, topic)
        turns.append((asked.question, persona.fill(asked.reply), asked))
    return turns


def held_out_questions() -> list[Asked]:
    """Questions that no training conversation asks, answered by the persona's name or maker; the same everywhere."""
    rng = Random("persona/held out")
    topics = [topic for topic in TOPICS if topic.key]
    found: dict[str, Asked] = {}
    while len(found) < HELD_OUT_QUESTIONS:
        topic = rng.choices(topics, [_weight(topic) for topic in topics])[0]
        core, prefix = rng.choice((*topic.cores, *topic.novel)), rng.choice(PREFIXES)
        if core in topic.novel or _held_out(core, prefix):
            question = with_prefix(prefix, core)
            found.setdefault(question, Asked(question, topic, topic.replies[0]))
    return list(found.values())


def is_held_out(question: str) -> bool:
    """Whether a question from elsewhere contains a wording that training must not use."""
    asked = question.casefold()
    return any(novel.casefold().rstrip("?.") in asked for topic in TOPICS for novel in topic.novel)


def _weight(topic: Topic) -> int:
    """How often people ask: most want to know the name or the maker."""
    return 3 if topic.key else 1


def _held_out(core: str, prefix: str) -> bool:
    return prefix != "" and held_out_wording("persona", core, prefix.strip())


def _training_question(rng: Random, topic: Topic) -> Asked:
    while True:
        core, prefix = rng.choice(topic.cores), rng.choice(PREFIXES)
        if not _held_out(core, prefix):
            return Asked(with_prefix(prefix, core), topic, rng.choice(topic.replies))
