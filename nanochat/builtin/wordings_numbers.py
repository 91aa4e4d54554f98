"""Calendar and small numbers: facts and wordings."""

from __future__ import annotations

from nanochat.builtin.everyday import DAYS, MONTHS, ORDINALS, number_word
from nanochat.builtin.relations import Fact, Relation

_MONTH_NAMES = tuple(name for name, _, _ in MONTHS)


def relations() -> tuple[Relation, ...]:
    """Relations of the calendar and of small numbers."""
    return (*_order("day", DAYS), *_order("month", _MONTH_NAMES), *_months(), *_numbers())


def _order(kind: str, names: tuple[str, ...]) -> tuple[Relation, Relation]:
    """The relations "after" and "before" in a cycle of names."""
    after = tuple(Fact(name, names[(i + 1) % len(names)]) for i, name in enumerate(names))
    before = tuple(Fact(name, names[i - 1]) for i, name in enumerate(names))
    return (
        Relation(
            name=f"{kind}-after",
            facts=after,
            reply=f"The {kind} after {{s}} is {{a}}.",
            statements=(
                f"The {kind} after {{s}} is {{a}}.",
                "{a} comes after {s}.",
                "{s} is followed by {a}.",
                "After {s} comes {a}.",
            ),
            cores=(
                f"Which {kind} comes after {{s}}?",
                f"What {kind} comes after {{s}}?",
                f"What is the {kind} after {{s}}?",
                f"Which {kind} follows {{s}}?",
                f"Tell me the {kind} after {{s}}.",
                f"Name the {kind} that comes after {{s}}.",
                "What comes after {s}?",
                f"Which is the next {kind} after {{s}}?",
            ),
            novel=(f"What {kind} follows {{s}}?", f"After {{s}}, which {kind} comes?"),
            weight=0.4,
            follow_up="And after {s}?",
        ),
        Relation(
            name=f"{kind}-before",
            facts=before,
            reply=f"The {kind} before {{s}} is {{a}}.",
            statements=(
                f"The {kind} before {{s}} is {{a}}.",
                "{a} comes before {s}.",
                "Before {s} comes {a}.",
            ),
            cores=(
                f"Which {kind} comes before {{s}}?",
                f"What {kind} comes before {{s}}?",
                f"What is the {kind} before {{s}}?",
                f"Tell me the {kind} before {{s}}.",
                f"Name the {kind} that comes before {{s}}.",
                "What comes before {s}?",
                f"Which is the {kind} before {{s}}?",
            ),
            novel=(f"Before {{s}}, which {kind} comes?", f"Give me the {kind} before {{s}}."),
            weight=0.4,
            follow_up="And before {s}?",
        ),
    )


def _months() -> tuple[Relation, ...]:
    return (
        Relation(
            name="month-days",
            facts=tuple(Fact(name, str(days)) for name, days, _ in MONTHS),
            reply="{s} has {a} days.",
            statements=(
                "{s} has {a} days.",
                "There are {a} days in {s}.",
                "In most years, {s} has {a} days.",
            ),
            cores=(
                "How many days does {s} have?",
                "How many days are in {s}?",
                "How many days in {s}?",
                "How many days are there in {s}?",
                "How long is {s}?",
                "Tell me the number of days in {s}.",
                "What is the number of days in {s}?",
                "{s} has how many days?",
            ),
            novel=("How many days has {s}?", "Give me the number of days in {s}."),
            weight=0.4,
        ),
        Relation(
            name="month-place",
            facts=tuple(Fact(name, place) for name, place in zip(_MONTH_NAMES, ORDINALS, strict=True)),
            reply="{s} is the {a} month of the year.",
            statements=("{s} is the {a} month of the year.", "The {a} month of the year is {s}."),
            cores=(
                "Which month of the year is {s}?",
                "What month of the year is {s}?",
                "What place does {s} have in the year?",
                "{s} is which month of the year?",
                "Tell me the place of {s} in the year.",
                "Which place does {s} have in the year?",
            ),
            novel=("What is the place of {s} in the year?", "{s} has which place in the year?"),
            weight=0.4,
        ),
        Relation(
            name="month-season",
            facts=tuple(Fact(name, season) for name, _, season in MONTHS),
            reply="In the northern half of the Earth, {s} is in {a}.",
            statements=(
                "In the northern half of the Earth, {s} is in {a}.",
                "In the north, {s} belongs to {a}.",
                "In the north, {a} has the month of {s}.",
            ),
            cores=(
                "In which season is {s} in the north?",
                "Which season is it in {s} in the north?",
                "In the north, which season has {s}?",
                "In the north, to which season does {s} belong?",
                "Tell me the season of {s} in the north.",
                "What season is {s} in the north?",
                "What is the season of {s} in the north?",
            ),
            novel=("In the north, what season is {s}?", "In the north, in which season is {s}?"),
            weight=0.4,
        ),
    )


def _numbers() -> tuple[Relation, ...]:
    return (
        Relation(
            name="number-after",
            facts=tuple(Fact(str(n), str(n + 1)) for n in range(100)),
            reply="The number after {s} is {a}.",
            statements=("The number after {s} is {a}.", "{a} comes after {s}.", "After {s} we count {a}."),
            cores=(
                "Which number comes after {s}?",
                "What number comes after {s}?",
                "What is the number after {s}?",
                "Which number follows {s}?",
                "Tell me the number after {s}.",
                "Count on from {s}: what comes next?",
                "Name the next number after {s}.",
            ),
            novel=("What number follows {s}?", "What is the next number after {s}?"),
            weight=0.6,
        ),
        Relation(
            name="double",
            facts=tuple(Fact(str(n), str(2 * n)) for n in range(1, 51)),
            reply="The double of {s} is {a}.",
            statements=("The double of {s} is {a}.", "Twice {s} is {a}.", "If you double {s}, you get {a}."),
            cores=(
                "What is the double of {s}?",
                "What is twice {s}?",
                "How much is twice {s}?",
                "Double {s}.",
                "What do you get if you double {s}?",
                "Tell me the double of {s}.",
                "How much is the double of {s}?",
            ),
            novel=("Give me the double of {s}.", "What number is twice {s}?"),
            weight=0.5,
        ),
        Relation(
            name="parity",
            facts=tuple(Fact(str(n), "odd" if n % 2 else "even") for n in range(1, 101)),
            reply="{s} is {a}.",
            statements=("{s} is {a}.", "The number {s} is {a}.", "{s} is an {a} number."),
            cores=(
                "Is {s} odd or even?",
                "Is {s} even or odd?",
                "Is the number {s} odd or even?",
                "Is the number {s} even or odd?",
                "Tell me if {s} is odd or even.",
                "Odd or even: what is {s}?",
                "Even or odd: what is {s}?",
            ),
            novel=("Say if {s} is even or odd.", "What is {s}, odd or even?"),
            weight=0.6,
        ),
        Relation(
            name="number-word",
            facts=tuple(Fact(str(n), number_word(n)) for n in range(101)),
            reply="{s} in words is {a}.",
            statements=("{s} in words is {a}.", "The number {s} is written {a}.", "{a} is {s}."),
            cores=(
                "How do you write {s} in words?",
                "Write {s} in words.",
                "What is {s} in words?",
                "How do we write the number {s} in words?",
                "Tell me {s} in words.",
                "In words, what is {s}?",
                "Write the number {s} in words.",
            ),
            novel=("Give me {s} in words.", "How is {s} written in words?"),
            weight=0.6,
        ),
    )
