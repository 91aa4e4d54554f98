"""Evaluation items: combinations that never occur in training text (see `holdout`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from nanochat.builtin import arithmetic, letters, talk
from nanochat.builtin.choice import LETTERS, choice_prompt
from nanochat.builtin.holdout import held_out_wording
from nanochat.builtin.lexicon import WORDS
from nanochat.builtin.phrasing import PREFIXES, with_prefix
from nanochat.builtin.questions import fact_question, sample_choice, sample_fact
from nanochat.builtin.relations import Fact, Relation
from nanochat.builtin.world import question_weights, relations

ITEMS_PER_TASK = 250
_DRAWS = 4 * ITEMS_PER_TASK  # some tasks have fewer distinct held-out questions than that


@dataclass(frozen=True)
class EvalItem:
    """One question.

    `others`: wrong answers of the same kind, which a right reply must not contain. `choices`: the option letters
    of a multiple-choice question. `meta`: the combination that was held out.
    """

    prompt: str
    answer: str
    others: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    meta: dict[str, str] = field(default_factory=dict)


def _fact_item(prompt: str, r: Relation, fact: Fact, core: str) -> EvalItem:
    others = tuple(answer for answer in r.answers if answer not in (fact.answer, fact.subject))
    meta = {"relation": r.name, "subject": fact.subject, "core": core}
    return EvalItem(prompt, fact.answer, others, meta=meta)


def _facts(rng: Random) -> EvalItem:
    r, fact, core = sample_fact(rng, held_out=True)
    return _fact_item(fact_question(rng, fact, core), r, fact, core)


def _facts_novel(rng: Random) -> EvalItem:
    r = rng.choices(relations(), question_weights())[0]
    fact, core = rng.choice(r.facts), rng.choice(r.novel)
    return _fact_item(fact_question(rng, fact, core), r, fact, core)


def _arithmetic(rng: Random) -> EvalItem:
    problem = arithmetic.sample_problem(rng, held_out=True)
    meta = {"a": str(problem.a), "op": problem.op, "b": str(problem.b)}
    return EvalItem(arithmetic.ask(rng, problem), str(problem.result), meta=meta)


def _letters(rng: Random) -> EvalItem:
    word, letter = letters.sample_pair(rng, held_out=True)
    question = rng.choice(letters.COUNT_QUESTIONS).format(w=word, l=letter)
    prompt = with_prefix(rng.choice(PREFIXES), question)
    return EvalItem(prompt, str(word.count(letter)), meta={"word": word, "letter": letter})


def _spelling(rng: Random) -> EvalItem:
    while True:
        word, core = rng.choice(WORDS), rng.choice(letters.SPELL_QUESTIONS)
        if held_out_wording("spell", word, core):
            prompt = with_prefix(rng.choice(PREFIXES), core.format(w=word))
            return EvalItem(prompt, letters.spell(word), meta={"word": word, "core": core})


def _identity(rng: Random) -> EvalItem:
    prompt, intent, core = talk.intent_turn(rng, "identity", talk.IDENTITY, held_out=True)
    return EvalItem(prompt, intent.key, meta={"core": core})


def _refusal(rng: Random) -> EvalItem:
    prompt, intent, core = talk.refusal_turn(rng, held_out=True)
    return EvalItem(prompt, intent.key, meta={"core": core})


def _choice(rng: Random) -> EvalItem:
    r, fact, core, options = sample_choice(rng, held_out=True)
    meta = {"relation": r.name, "subject": fact.subject, "core": core}
    answer = LETTERS[options.index(fact.answer)]
    return EvalItem(choice_prompt(fact.fill(core), options), answer, choices=tuple("ABCD"), meta=meta)


_MAKERS: dict[str, Callable[[Random], EvalItem]] = {
    "builtin-facts": _facts,
    "builtin-facts-novel": _facts_novel,
    "builtin-arithmetic": _arithmetic,
    "builtin-letters": _letters,
    "builtin-spelling": _spelling,
    "builtin-identity": _identity,
    "builtin-refusal": _refusal,
    "builtin-choice": _choice,
}


def evaluation(seed: int = 0) -> dict[str, list[EvalItem]]:
    """Items of every builtin task, by task name: at most `ITEMS_PER_TASK` each, with distinct prompts."""
    tasks = {}
    for name, make in _MAKERS.items():
        rng = Random(f"evaluation/{seed}/{name}")
        items: dict[str, EvalItem] = {}
        for _ in range(_DRAWS):
            item = make(rng)
            items.setdefault(item.prompt, item)
        tasks[name] = list(items.values())[:ITEMS_PER_TASK]
    return tasks
