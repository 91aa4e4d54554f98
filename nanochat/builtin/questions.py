"""Random questions about facts, open or multiple-choice, from the training or the held-out side."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from nanochat.builtin.choice import LETTERS, named_choice, named_choice_prompt, named_choice_reply
from nanochat.builtin.lexicon import WORDS
from nanochat.builtin.phrasing import typed
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
    return typed(rng, fact.fill(core), proper=core.startswith("{") and fact.subject[0].isupper())


@dataclass(frozen=True)
class ChoiceQuestion:
    """A fact question with lettered options, one of them right."""

    relation: Relation
    fact: Fact
    core: str
    options: tuple[str, ...]

    @property
    def letter(self) -> str:
        """The letter of the right option."""
        return LETTERS[self.options.index(self.fact.answer)]

    @property
    def prompt(self) -> str:
        """The user's message."""
        return named_choice_prompt(self.fact.fill(self.core), self.options)

    @property
    def reply(self) -> str:
        """The reply that training teaches."""
        return named_choice_reply(self.fact.fill(self.relation.reply), self.fact.answer, self.letter)


def sample_choice(rng: Random, *, held_out: bool) -> ChoiceQuestion:
    """A question with four options in random order."""
    while True:
        r, fact, core = sample_fact(rng, held_out=held_out)
        others = r.wrong_answers(fact)
        if len(others) >= 3:
            options = [fact.answer, *rng.sample(others, 3)]
            rng.shuffle(options)
            return ChoiceQuestion(r, fact, core, tuple(options))


_RECALLS = 8


def _quiz(rng: Random) -> str:
    """A lettered question with its reply, or lettered words; then the lines of random options again.

    The repetitions teach a small model to look letters up: one letter per question is too weak a signal.
    """
    if rng.random() < 0.5:
        choice = sample_choice(rng, held_out=False)
        options, lead = choice.options, f"{choice.prompt}\n{choice.reply}"
    else:
        options = tuple(rng.sample(WORDS, 4))
        lead = named_choice_prompt("Which word is it?", options)
    named = rng.choices(options, k=_RECALLS)
    return "\n".join([lead, *(named_choice(option, LETTERS[options.index(option)]) for option in named)])


def quizzes(rng: Random) -> str:
    """A document of multiple-choice questions with their answers."""
    return "\n".join(_quiz(rng) for _ in range(rng.randint(2, 4)))
