"""SFT conversations: short questions with uniform answers, one to five turns.

`split="val"` draws from the held-out combinations, so that the validation loss measures generalisation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

from nanochat.builtin import follow_ups, stories, talk
from nanochat.builtin.exercises import EXERCISES, Turn
from nanochat.builtin.questions import fact_question, letter_question, sample_fact

# Conversations per size.
COUNTS: dict[str, int] = {"small": 23_000, "medium": 92_000, "large": 368_000}
_VALIDATION_SHARE = 0.02

_MakeTurn = Callable[[Random, bool], Turn]


def exercise_turn(kind: str, rng: Random, held_out: bool) -> Turn:
    """An exercise and the reply that training teaches."""
    exercise = EXERCISES[kind](rng, held_out)
    return exercise.prompt, exercise.reply


def talk_turn(rng: Random, held_out: bool) -> Turn:
    """Small talk, without a hold-out."""
    message, intent, _ = talk.intent_turn(rng, "talk", talk.SMALL_TALK)
    return message, intent.reply


def story_turn(rng: Random, held_out: bool) -> Turn:
    """A request for a story and a short story, without a hold-out."""
    request = rng.choice(("Tell me a story.", "Tell me a short story.", "Please tell me a story.",
                          "Can you tell me a story?", "I would like to hear a story."))  # fmt: skip
    return request, stories.story(rng, beats=7)


def letter_turn(rng: Random, held_out: bool) -> Turn:
    """A question for the letter of an option, without a hold-out."""
    prompt, reply, _ = letter_question(rng)
    return prompt, reply


# Makers of turns and their share of all turns, in percent.
_MIXTURE: tuple[tuple[_MakeTurn, float], ...] = (
    (partial(exercise_turn, "facts"), 19),
    (partial(exercise_turn, "arithmetic"), 14),
    (partial(exercise_turn, "letters"), 6),
    (partial(exercise_turn, "spelling"), 30),
    (partial(exercise_turn, "choice"), 8),
    (letter_turn, 4),
    (partial(exercise_turn, "identity"), 9),
    (talk_turn, 3),
    (partial(exercise_turn, "refusal"), 6),
    (story_turn, 1),
)


def _turn(rng: Random, held_out: bool) -> Turn:
    make = rng.choices([make for make, _ in _MIXTURE], [weight for _, weight in _MIXTURE])[0]
    return make(rng, held_out)


def _follow_ups(rng: Random, held_out: bool) -> list[Turn]:
    """A fact question, then one to three questions that only the turns before explain, or a doubt."""
    r, fact, core = sample_fact(rng, held_out=held_out)
    turns: list[Turn] = [(fact_question(rng, fact, core), fact.fill(r.reply))]
    for _ in range(rng.randint(1, 3)):
        if rng.random() < 0.15:
            turns.append(follow_ups.doubt_turn(rng, r, fact))
        else:
            asked = follow_ups.follow_up(rng, r, fact, held_out=held_out)
            r, fact = asked.relation, asked.fact
            turns.append((asked.prompt, asked.reply))
    return turns


def _greeting(rng: Random, share: float) -> list[Turn]:
    return [talk_turn(rng, False)] if rng.random() < share else []


def _turns(rng: Random, held_out: bool) -> list[Turn]:
    shape = rng.random()
    if shape < 0.70:
        return [_turn(rng, held_out)]
    if shape < 0.86:
        return [*_greeting(rng, 0.05), *_follow_ups(rng, held_out), *_greeting(rng, 0.1)]
    if shape < 0.88:
        return [*talk.name_turns(rng), _turn(rng, held_out)]
    return [*_greeting(rng, 0.3), *(_turn(rng, held_out) for _ in range(rng.randint(2, 3)))]


def conversation(turns: list[Turn]) -> dict[str, Any]:
    """Turns as a conversation in the message format."""
    messages: list[dict[str, Any]] = []
    for question, answer in turns:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages}


def conversations(size: str = "small", seed: int = 0, split: str = "train") -> list[dict[str, Any]]:
    """The conversations of a split ("train" or "val"), the same for a size and seed on every machine.

    Raises ValueError for an unknown size or split.
    """
    if size not in COUNTS:
        raise ValueError(f"unknown size {size!r} of the builtin dataset: choose one of {', '.join(COUNTS)}")
    if split not in ("train", "val"):
        raise ValueError(f"unknown split {split!r} of the builtin conversations: choose train or val")
    held_out = split == "val"
    count = int(COUNTS[size] * _VALIDATION_SHARE) if held_out else COUNTS[size]
    return [
        conversation(_turns(Random(f"chat/{size}/{seed}/{split}/{index}"), held_out))
        for index in range(count)
    ]
