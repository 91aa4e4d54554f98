"""Random questions about facts, open or multiple-choice, from the training or the held-out side."""

from __future__ import annotations

from random import Random

from nanochat.builtin.choice import LETTERS, choice_prompt
from nanochat.builtin.lexicon import WORDS
from nanochat.builtin.phrasing import PREFIXES, casual, with_prefix
from nanochat.builtin.relations import Fact, Relation
from nanochat.builtin.world import question_weights, relations


def sample_fact(rng: Random, *, held_out: bool) -> tuple[Relation, Fact, str]:
    """A random (relation, fact, question core), from the training or the held-out side."""
    while True:
        r = rng.choices(relations(), question_weights())[0]
        fact, core = rng.choice(r.facts), rng.choice(r.cores)
        if r.held_out(fact, core) == held_out:
            return r, fact, core


def fact_question(rng: Random, fact: Fact, core: str) -> str:
    """The core as a question, sometimes with an opening, sometimes carelessly typed."""
    question = fact.fill(core)
    proper = core.startswith("{") and fact.subject[0].isupper()
    if not proper and rng.random() < 0.06:
        return casual(question)
    return with_prefix(rng.choice(PREFIXES), question, proper=proper)


def sample_choice(rng: Random, *, held_out: bool) -> tuple[Relation, Fact, str, tuple[str, ...]]:
    """(relation, fact, core, options): a question with four options in random order, one of them right."""
    while True:
        r, fact, core = sample_fact(rng, held_out=held_out)
        others = [answer for answer in r.answers if answer != fact.answer]
        if len(others) >= 3:
            options = [fact.answer, *rng.sample(others, 3)]
            rng.shuffle(options)
            return r, fact, core, tuple(options)


def _quiz(rng: Random) -> str:
    """A question with lettered options, the right letter, and the letters of other options.

    The other letters help a small model learn to look letters up: one letter per question is too weak a signal.
    """
    if rng.random() < 0.6:
        _, fact, core, options = sample_choice(rng, held_out=False)
        lead = f"{choice_prompt(fact.fill(core), options)}\n{LETTERS[options.index(fact.answer)]}\n"
    else:
        options = tuple(rng.sample(WORDS, 4))
        lead = choice_prompt("Which word is it?", options) + "\n"
    named = rng.sample(options, 3)
    return lead + " ".join(f"{option} has {LETTERS[options.index(option)]}." for option in named)


def quizzes(rng: Random) -> str:
    """A document of multiple-choice questions with their answers."""
    return "\n".join(_quiz(rng) for _ in range(rng.randint(2, 4)))
