"""Questions and answers of every kind that is both taught and evaluated.

An exercise is drawn from the training side of the hold-out or from the held-out side (see `holdout`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from nanochat.builtin import arithmetic, follow_ups, letters, talk
from nanochat.builtin.holdout import held_out_wording
from nanochat.builtin.lexicon import WORDS
from nanochat.builtin.phrasing import typed
from nanochat.builtin.questions import fact_question, sample_choice, sample_fact
from nanochat.builtin.relations import Fact, Relation
from nanochat.builtin.world import question_weights, relations

Content = str | list[dict[str, str]]
"""An assistant's message: text, or parts with calls of the Python tool."""
Turn = tuple[str, Content]
"""A user's message and the reply."""


@dataclass(frozen=True)
class Exercise:
    """One question, with the `reply` that training teaches and the `answer` that a right reply contains.

    A right reply may contain one of `also` instead, which are as true, and none of `others`, which are wrong answers
    of the same kind. `choices` are the option letters of a multiple-choice question; `meta` identifies the
    combination; `history` are the turns before.
    """

    prompt: str
    reply: Content
    answer: str
    also: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    meta: dict[str, str] = field(default_factory=dict)
    history: tuple[Turn, ...] = ()


def fact_exercise(rng: Random, held_out: bool) -> Exercise:
    """A question about a fact; the hold-out is by fact and wording."""
    return _about_fact(rng, *sample_fact(rng, held_out=held_out))


def novel_fact_exercise(rng: Random) -> Exercise:
    """A question about a fact in a wording that occurs in no training text."""
    r = rng.choices(relations(), question_weights())[0]
    fact, core = rng.choice(r.facts), rng.choice(r.novel)
    return _about_fact(rng, r, fact, core)


def _about_fact(rng: Random, r: Relation, fact: Fact, core: str) -> Exercise:
    meta = {"relation": r.name, "subject": fact.subject, "core": core}
    prompt = fact_question(rng, fact, core)
    return Exercise(prompt, fact.fill(r.reply), fact.answer, fact.also, r.wrong_answers(fact), meta=meta)


def follow_up_exercise(rng: Random, held_out: bool) -> Exercise:
    """A question that only the turns before it explain; the hold-out is by fact and wording."""
    r, fact, history = follow_ups.opening(rng)
    if rng.random() < 0.3:
        before = follow_ups.follow_up(rng, r, fact, held_out=False)
        r, fact = before.relation, before.fact
        history.append((before.prompt, before.reply))
    asked = follow_ups.follow_up(rng, r, fact, held_out=held_out)
    r, fact = asked.relation, asked.fact
    meta = {"relation": r.name, "subject": fact.subject, "core": asked.core}
    others = r.wrong_answers(fact)
    return Exercise(
        asked.prompt, asked.reply, fact.answer, fact.also, others, meta=meta, history=tuple(history)
    )


def arithmetic_exercise(rng: Random, held_out: bool) -> Exercise:
    """A problem to solve with the tool; the hold-out is by the two numbers and the operation."""
    problem = arithmetic.sample_problem(rng, held_out=held_out)
    meta = {"a": str(problem.a), "op": problem.op, "b": str(problem.b)}
    prompt, reply = arithmetic.ask(rng, problem), arithmetic.tool_answer(problem)
    return Exercise(prompt, reply, str(problem.result), meta=meta)


def letters_exercise(rng: Random, held_out: bool) -> Exercise:
    """Counting a letter in a word with the tool; the hold-out is by letter and word."""
    word, letter = letters.sample_pair(rng, held_out=held_out)
    question = rng.choice(letters.COUNT_QUESTIONS).format(w=word, l=letter)
    prompt, reply = typed(rng, question), letters.tool_answer(word, letter)
    return Exercise(prompt, reply, str(word.count(letter)), meta={"word": word, "letter": letter})


def spelling_exercise(rng: Random, held_out: bool) -> Exercise:
    """A word to spell; the hold-out is by word and wording."""
    while True:
        word, core = rng.choice(WORDS), rng.choice(letters.SPELL_QUESTIONS)
        if held_out_wording("spell", word, core) == held_out:
            meta = {"word": word, "core": core}
            prompt = typed(rng, core.format(w=word))
            return Exercise(prompt, letters.spelling_answer(word), letters.spell(word), meta=meta)


_SELF = (*talk.IDENTITY, talk.ORIGIN)  # so that its many wordings are asked twice as often


def identity_exercise(rng: Random, held_out: bool) -> Exercise:
    """A question about nanochat itself; the hold-out is by wording and opening."""
    prompt, intent, core = talk.intent_turn(rng, "identity", _SELF, held_out=held_out)
    return Exercise(prompt, intent.reply, intent.key, meta={"core": core})


def novel_origin_exercise(rng: Random) -> Exercise:
    """Who made nanochat, in a wording that occurs in no training text, at the start or after other turns."""
    prompt, intent, core = talk.novel_turn(rng, talk.ORIGIN)
    history: list[Turn] = []
    if rng.random() < 0.5:
        r, fact, asked = follow_ups.opening(rng)
        history = [*asked, *([follow_ups.doubt_turn(rng, r, fact)] if rng.random() < 0.3 else [])]
    return Exercise(prompt, intent.reply, intent.key, meta={"core": core}, history=tuple(history))


def refusal_exercise(rng: Random, held_out: bool) -> Exercise:
    """A question that nanochat cannot answer; the reply says so."""
    prompt, intent, core = talk.refusal_turn(rng, held_out=held_out)
    return Exercise(prompt, intent.reply, intent.key, meta={"core": core})


def choice_exercise(rng: Random, held_out: bool) -> Exercise:
    """A fact question with four options; the reply is the fact, then the right option and its letter."""
    choice = sample_choice(rng, held_out=held_out)
    meta = {"relation": choice.relation.name, "subject": choice.fact.subject, "core": choice.core}
    return Exercise(choice.prompt, choice.reply, choice.letter, choices=tuple("ABCD"), meta=meta)


EXERCISES: dict[str, Callable[[Random, bool], Exercise]] = {
    "facts": fact_exercise,
    "follow-ups": follow_up_exercise,
    "arithmetic": arithmetic_exercise,
    "letters": letters_exercise,
    "spelling": spelling_exercise,
    "identity": identity_exercise,
    "refusal": refusal_exercise,
    "choice": choice_exercise,
}
"""`(rng, held_out) → exercise` by kind."""
