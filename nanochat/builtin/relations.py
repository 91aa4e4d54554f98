"""Relations of the world: their facts, and how those are stated and asked.

Templates are filled by `str.format` with `s` (subject), `a` (answer) and a fact's own slots; the filled text is
capitalised. A relation's `cores` are the questions asked in training; its `novel` cores occur in evaluation only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from nanochat.builtin.holdout import held_out_fact


@dataclass(frozen=True)
class Fact:
    """One fact: `subject` names it within its relation; `slots` holds other forms of subject and answer.

    `also` are other true answers, which no text gives; `named` in `slots` is the subject as a noun for follow-ups.
    """

    subject: str
    answer: str
    slots: Mapping[str, str] = field(default_factory=dict, hash=False)
    also: tuple[str, ...] = ()

    def fill(self, template: str) -> str:
        """The filled template, capitalised. Raises KeyError for a slot that the fact lacks."""
        text = template.format(s=self.subject, a=self.answer, **self.slots)
        return text[0].upper() + text[1:]


@dataclass(frozen=True)
class Relation:
    """Facts of one kind with their wordings; `weight` scales how often questions ask about them."""

    name: str
    facts: tuple[Fact, ...]
    reply: str
    statements: tuple[str, ...]
    cores: tuple[str, ...]
    novel: tuple[str, ...]
    weight: float = 1.0
    follow_up: str = "And what about {s}?"

    @cached_property
    def answers(self) -> tuple[str, ...]:
        """The distinct answers of the relation in order: the candidates for a question's options."""
        return tuple(dict.fromkeys(fact.answer for fact in self.facts))

    def wrong_answers(self, fact: Fact) -> tuple[str, ...]:
        """The answers of other facts that are not true of this one."""
        return tuple(a for a in self.answers if a not in (fact.answer, *fact.also, fact.subject))

    def held_out(self, fact: Fact, core: str) -> bool:
        """Whether training never asks for this fact in this wording."""
        return held_out_fact(self.name, fact.subject, core)
