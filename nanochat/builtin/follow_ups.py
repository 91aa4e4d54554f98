"""Follow-ups: questions that only the turns before them explain.

"And what about Germany?", "I meant Italy.", "Which language is spoken there?", "Are you sure?". The hold-out is by
fact and wording, as for whole questions: a combination that is held out is asked in no training conversation, after
whatever question.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from random import Random

from nanochat.builtin.holdout import held_out_wording
from nanochat.builtin.phrasing import HASTE, hasty
from nanochat.builtin.questions import fact_question, sample_fact
from nanochat.builtin.relations import Fact, Relation
from nanochat.builtin.world import relations


@dataclass(frozen=True)
class FollowUp:
    """A question after others, and the fact that answers it; `core` is its wording before it is filled."""

    prompt: str
    relation: Relation
    fact: Fact
    core: str
    reply: str


# {x} is another subject of the same relation, {y} the subject of the question before.
_OTHER_SUBJECT = (
    "And what about {x}?", "What about {x}?", "And {x}?", "How about {x}?", "And for {x}?", "{x}?", "Now {x}.",
    "And now {x}, please.", "The same for {x}, please.", "Do you also know it for {x}?", "Okay, and {x}?",
    "Thanks! And {x}?",
)  # fmt: skip
_CORRECTIONS = (
    "No, I meant {x}.", "Sorry, I meant {x}.", "I meant {x}.", "I meant {x}, not {y}.", "Oh, I was asking about {x}.",
    "Not {y}, {x}.", "Wrong one, I mean {x}.", "That is not what I asked. I meant {x}.",
)  # fmt: skip

# Questions about the subject of the question before, by relation; relations that share subjects form a group.
_PRONOUNS: tuple[dict[str, tuple[str, ...]], ...] = (
    {
        "capital": ("What is its capital?", "And its capital?", "Which city is its capital?",
                    "And what is the capital there?"),
        "continent": ("On which continent is it?", "Which continent is it on?", "And its continent?",
                      "Where in the world is it?"),
        "language": ("What language do people speak there?", "And its language?", "What is its main language?",
                     "Which language is spoken there?", "And what do they speak there?"),
        "currency": ("What is its currency?", "And its currency?", "Which money do people use there?",
                     "And how do they pay there?"),
    },
    {
        "symbol": ("What is its symbol?", "And its symbol?", "Which symbol does it have?"),
        "number": ("What is its atomic number?", "And its atomic number?", "Which atomic number does it have?"),
    },
    {
        "animal-group": ("What kind of animal is it?", "And what kind of animal is that?", "Which group is it in?"),
        "animal-home": ("Where does it live?", "And where does it live?", "Where is its home?"),
        "animal-food": ("What does it eat?", "And what does it eat?", "What is its food?"),
        "animal-young": ("What is its young called?", "And its young?", "What do you call its young?"),
        "animal-sound": ("What sound does it make?", "And its sound?", "What does it sound like?"),
    },
    {
        "month-days": ("How many days does it have?", "And how many days?"),
        "month-place": ("Which month of the year is it?", "And which place in the year does it have?"),
        "month-season": ("In which season is it?", "And its season?"),
        "month-after": ("Which month comes after it?", "And the month after it?"),
    },
)  # fmt: skip

_DOUBTS = (
    "Are you sure?",
    "Really?",
    "Is that right?",
    "Is that true?",
    "Are you certain?",
)
_REPEATS = (
    "Can you repeat that?",
    "Say that again.",
    "Again, please.",
    "What did you say?",
    "Please repeat that.",
)
_WRONG_ANSWERS = ("Is it not {z}?", "I thought it was {z}.", "No, it is {z}.")
_NOT_ASKED_AS_WRONG = ("currency", "month-place", "planet-place")  # "Is it not dinar?" lacks an article


def follow_up(rng: Random, r: Relation, fact: Fact, *, held_out: bool) -> FollowUp:
    """A question after one about a fact, from the training or the held-out side."""
    makers: tuple[_Make, ...] = (_another_subject, _another_subject, _correction, _pronoun)
    while True:
        made = rng.choice(makers)(rng, r, fact)
        if made and _is_held_out(made) == held_out:
            return made


def doubt_turn(rng: Random, r: Relation, fact: Fact) -> tuple[str, str]:
    """A turn that questions or repeats the answer before, without a hold-out; the answer stays the same."""
    reply = fact.fill(r.reply)
    others = r.wrong_answers(fact)
    of_animals = "one" in fact.slots  # whose answers are not all nouns: "I thought it was barks."
    kinds = (
        ("doubt", "repeat") if of_animals or r.name in _NOT_ASKED_AS_WRONG else ("doubt", "repeat", "wrong")
    )
    kind = rng.choice(kinds)
    if kind == "doubt":
        return rng.choice(_DOUBTS), f"Yes. {reply}"
    if kind == "repeat" or not others:
        return rng.choice(_REPEATS), reply
    return rng.choice(_WRONG_ANSWERS).format(z=rng.choice(others)), f"No. {reply}"


def opening(rng: Random) -> tuple[Relation, Fact, list[tuple[str, str]]]:
    """A question that training asks, as (relation, fact, turns), for follow-ups to come after."""
    r, fact, core = sample_fact(rng, held_out=False)
    return r, fact, [(fact_question(rng, fact, core), fact.fill(r.reply))]


_Make = Callable[[Random, Relation, Fact], FollowUp | None]


def _is_held_out(made: FollowUp) -> bool:
    return held_out_wording("follow-up", f"{made.relation.name}/{made.fact.subject}", made.core)


def _named(fact: Fact) -> str:
    return fact.slots.get("named") or fact.slots.get("one", fact.subject)


def _about_another(rng: Random, r: Relation, fact: Fact, cores: tuple[str, ...]) -> FollowUp:
    other = rng.choice([each for each in r.facts if each != fact])
    core = rng.choice(cores)
    prompt = core.format(x=_named(other), y=_named(fact))
    prompt = hasty(rng, prompt) if rng.random() < HASTE else prompt[0].upper() + prompt[1:]
    return FollowUp(prompt, r, other, core, other.fill(r.reply))


def _another_subject(rng: Random, r: Relation, fact: Fact) -> FollowUp:
    if rng.random() < 0.2:
        other = rng.choice([each for each in r.facts if each != fact])
        core = r.follow_up.replace("{s}", "{x}").replace(
            "{one}", "{x}"
        )  # as in _OTHER_SUBJECT, for the hold-out
        return FollowUp(other.fill(r.follow_up), r, other, core, other.fill(r.reply))
    return _about_another(rng, r, fact, _OTHER_SUBJECT)


def _correction(rng: Random, r: Relation, fact: Fact) -> FollowUp:
    return _about_another(rng, r, fact, _CORRECTIONS)


@cache
def _group_facts(group: int, subject: str) -> tuple[tuple[Relation, Fact], ...]:
    """The facts about a subject in the relations of a group."""
    names = _PRONOUNS[group]
    return tuple((r, f) for r in relations() if r.name in names for f in r.facts if f.subject == subject)


def _pronoun(rng: Random, r: Relation, fact: Fact) -> FollowUp | None:
    group = next((i for i, names in enumerate(_PRONOUNS) if r.name in names), None)
    if group is None:
        return None
    facts = [(other, each) for other, each in _group_facts(group, fact.subject) if other.name != r.name]
    if not facts:
        return None
    other, each = rng.choice(facts)
    core = rng.choice(_PRONOUNS[group][other.name])
    return FollowUp(core, other, each, core, each.fill(other.reply))
