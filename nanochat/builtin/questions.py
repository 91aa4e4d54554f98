"""Random questions about facts, open or multiple-choice, from the training or the held-out side."""

from __future__ import annotations

from collections.abc import Sequence
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


def letter_question(rng: Random) -> tuple[str, str, tuple[str, ...]]:
    """(question, reply, options): where an option is among others, which asks for no knowledge.

    The reply is the option's line, copied from the list: what is left to learn of a choice whose fact is known.
    """
    of_a_fact = rng.random() < 0.5
    options = sample_choice(rng, held_out=False).options if of_a_fact else tuple(rng.sample(WORDS, 4))
    option = rng.choice(options)
    question = rng.choice(("Which letter has {o}?", "What is the letter of {o}?", "Find {o}.")).format(
        o=option
    )
    return named_choice_prompt(question, options), _line(options, option), options


def _line(options: Sequence[str], option: str) -> str:
    return named_choice(option, LETTERS[options.index(option)])


_RECALLS = 8


def _quiz(rng: Random) -> str:
    """A lettered question with its reply, then the lines of random options again.

    The repetitions teach a small model to look letters up: one letter per question is too weak a signal.
    """
    if rng.random() < 0.5:
        choice = sample_choice(rng, held_out=False)
        prompt, reply, options = choice.prompt, choice.reply, choice.options
    else:
        prompt, reply, options = letter_question(rng)
    return "\n".join(
        [prompt, reply, *(_line(options, option) for option in rng.choices(options, k=_RECALLS))]
    )


def quizzes(rng: Random) -> str:
    """A document of multiple-choice questions with their answers."""
    return "\n".join(_quiz(rng) for _ in range(rng.randint(2, 4)))
