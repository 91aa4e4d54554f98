"""The whole world: every relation of every module of wordings."""

from __future__ import annotations

from functools import cache

from nanochat.builtin import wordings_countries, wordings_life, wordings_numbers, wordings_science
from nanochat.builtin.relations import Relation


@cache
def relations() -> tuple[Relation, ...]:
    """All relations of the world."""
    modules = (wordings_countries, wordings_science, wordings_life, wordings_numbers)
    return tuple(r for module in modules for r in module.relations())


@cache
def question_weights() -> list[float]:
    """How often questions are about each relation: its weight times the square root of its number of facts."""
    return [r.weight * len(r.facts) ** 0.5 for r in relations()]
