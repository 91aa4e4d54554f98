"""The whole world: the relations of all `wordings_*` modules."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from nanochat.builtin import wordings_countries, wordings_life, wordings_numbers, wordings_science
from nanochat.builtin.equivalents import other_true_answers
from nanochat.builtin.relations import Relation


@cache
def relations() -> tuple[Relation, ...]:
    """All relations of the world."""
    modules = (wordings_countries, wordings_science, wordings_life, wordings_numbers)
    return tuple(_with_equivalents(r) for module in modules for r in module.relations())


def _with_equivalents(r: Relation) -> Relation:
    facts = (replace(f, also=other_true_answers(r.name, f.subject, f.answer)) for f in r.facts)
    return replace(r, facts=tuple(facts))


@cache
def question_weights() -> list[float]:
    """Sampling weight of each relation in questions: its own weight times the square root of its number of facts."""
    return [r.weight * len(r.facts) ** 0.5 for r in relations()]
