"""Pretraining documents: one endless stream per size and seed, split by hash into training and validation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import accumulate
from random import Random

from nanochat.builtin import arithmetic, copying, letters, questions, stories, talk
from nanochat.builtin.everyday import PEOPLE
from nanochat.builtin.holdout import validation_document
from nanochat.builtin.relations import Fact, Relation
from nanochat.builtin.world import question_weights, relations

# Characters of training documents per size.
SIZES: dict[str, int] = {"small": 11_000_000, "medium": 44_000_000, "large": 176_000_000}
_VALIDATION_SHARE = 0.025

_Writer = Callable[[Random], str]


@cache
def _facts() -> tuple[tuple[Relation, Fact], ...]:
    return tuple((r, fact) for r in relations() for fact in r.facts)


# Relations whose answer gets articles of its own, like the subject.
_TOLD_OF_THE_ANSWER = ("capital-of", "symbol-of", "number-of", "planet-title", "planet-trait", "planet-at")


@cache
def _subjects() -> tuple[list[tuple[tuple[Relation, Fact], ...]], list[float]]:
    """The facts that mention each thing, and cumulative weights for choosing the thing an article is about."""
    mentions: dict[str, list[tuple[Relation, Fact]]] = {}
    for r, fact in _facts():
        mentions.setdefault(fact.subject, []).append((r, fact))
        if r.name in _TOLD_OF_THE_ANSWER:
            mentions.setdefault(fact.answer, []).append((r, fact))
    things = [tuple(facts) for facts in mentions.values() if len(facts) > 2]
    return things, list(accumulate(sum(r.weight for r, _ in facts) for facts in things))


@cache
def _fact_weights() -> list[float]:
    """Cumulative weights of the facts: those asked more often are stated more often, but less than in proportion."""
    return list(accumulate(0.5 + 0.5 * r.weight for r, _ in _facts()))


def _article(rng: Random) -> str:
    """Up to 14 sentences on one thing, in random order and wordings."""
    subjects, weights = _subjects()
    facts = rng.choices(subjects, cum_weights=weights)[0]
    sentences = [fact.fill(rng.choice(r.statements)) for r, fact in facts for _ in range(rng.randint(1, 3))]
    rng.shuffle(sentences)
    return " ".join(sentences[:14])


def _one_relation(rng: Random) -> str:
    """A list of facts of one kind."""
    r = rng.choices(relations(), question_weights())[0]
    facts = rng.sample(r.facts, min(len(r.facts), rng.randint(6, 14)))
    return " ".join(fact.fill(rng.choice(r.statements)) for fact in facts)


def _mixed_facts(rng: Random) -> str:
    """Facts of all kinds."""
    chosen = rng.choices(_facts(), cum_weights=_fact_weights(), k=rng.randint(6, 14))
    return " ".join(fact.fill(rng.choice(r.statements)) for r, fact in chosen)


def _dialogue(rng: Random) -> str:
    """Two people asking and answering; held-out questions do not occur."""
    one, two = (person[0] for person in rng.sample(PEOPLE, 2))
    lines = [f"{one} and {two} ask each other questions."]
    for _ in range(rng.randint(3, 7)):
        r, fact = rng.choices(_facts(), cum_weights=_fact_weights())[0]
        core = rng.choice(r.cores)
        if r.held_out(fact, core):
            continue
        question, answer = fact.fill(core), fact.fill(r.reply)
        lines.append(
            rng.choice(
                (
                    f'{one} asks: "{question}" {two} answers: "{answer}"',
                    f'{two} asks: "{question}" {one} says: "{answer}"',
                    f"Question: {question} Answer: {answer}",
                )
            )
        )
    return " ".join(lines)


# Writer, its weight in size small, and its weight in larger sizes. The number of facts is fixed; only stories,
# arithmetic and words yield more text.
_MIXTURE: tuple[tuple[_Writer, float, float], ...] = (
    (_article, 15, 8),
    (_one_relation, 17, 8),
    (_mixed_facts, 19, 10),
    (_dialogue, 12, 8),
    (stories.story, 10, 34),
    (arithmetic.worked_examples, 7, 14),
    (letters.word_study, 13, 10),
    (questions.quizzes, 6, 6),
    (copying.copying, 8, 8),
    (talk.about_nanochat, 2, 1),
)


def _stream(size: str, seed: int) -> Iterator[str]:
    """Endless documents, each from its own generator, seeded by the document's index."""
    if size not in SIZES:
        raise ValueError(f"unknown size {size!r} of the builtin dataset: choose one of {', '.join(SIZES)}")
    writers = [writer for writer, _, _ in _MIXTURE]
    weights = [small if size == "small" else large for _, small, large in _MIXTURE]
    index = 0
    while True:
        rng = Random(f"builtin/{size}/{seed}/{index}")
        yield rng.choices(writers, weights)[0](rng)
        index += 1


def _split(size: str, seed: int, *, validation: bool, characters: int) -> Iterator[str]:
    for document in _stream(size, seed):
        if validation_document(document) == validation:
            yield document
            characters -= len(document)
            if characters <= 0:
                return


def documents(size: str = "small", seed: int = 0) -> Iterator[str]:
    """Training documents, the same for a size and seed on every machine.

    Raises ValueError for an unknown size.
    """
    return _split(size, seed, validation=False, characters=SIZES.get(size, 0))


def val_documents(size: str = "small", seed: int = 0) -> Iterator[str]:
    """Validation documents: the same distribution, disjoint from the training documents of every seed.

    Raises ValueError for an unknown size.
    """
    return _split(size, seed, validation=True, characters=int(SIZES.get(size, 0) * _VALIDATION_SHARE))
