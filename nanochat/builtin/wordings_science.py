"""Elements and planets: facts and wordings."""

from __future__ import annotations

from nanochat.builtin.everyday import ORDINALS
from nanochat.builtin.nature import ELEMENTS, PLANET_TITLES, PLANET_TRAITS, PLANETS
from nanochat.builtin.relations import Fact, Relation


def relations() -> tuple[Relation, ...]:
    """Relations of elements and planets."""
    return (*_elements(), *_planets())


def _elements() -> tuple[Relation, ...]:
    by_symbol = tuple(Fact(e.symbol, e.name) for e in ELEMENTS)
    by_number = tuple(Fact(str(e.number), e.name) for e in ELEMENTS)
    return (
        Relation(
            name="symbol",
            facts=tuple(Fact(e.name, e.symbol) for e in ELEMENTS),
            reply="The symbol of {s} is {a}.",
            statements=(
                "The symbol of {s} is {a}.",
                "The chemical symbol of {s} is {a}.",
                "{s} has the symbol {a}.",
                "Chemists write {s} as {a}.",
                "The element {s} is written {a}.",
            ),
            cores=(
                "What is the symbol of {s}?",
                "What is the symbol for {s}?",
                "What is the chemical symbol of {s}?",
                "Which symbol does {s} have?",
                "What symbol does {s} have?",
                "How do chemists write {s}?",
                "Tell me the symbol of {s}.",
                "Give me the chemical symbol of {s}.",
                "What is the symbol of the element {s}?",
                "{s} has which chemical symbol?",
            ),
            novel=("Which chemical symbol does {s} have?", "Name the chemical symbol of {s}."),
        ),
        Relation(
            name="symbol-of",
            facts=by_symbol,
            reply="{s} is the symbol of {a}.",
            statements=(
                "{s} is the symbol of {a}.",
                "The symbol {s} stands for {a}.",
                "{s} is the chemical symbol of {a}.",
                "In chemistry, {s} means {a}.",
                "The element with the symbol {s} is {a}.",
            ),
            cores=(
                "Which element has the symbol {s}?",
                "What element has the symbol {s}?",
                "What does the symbol {s} stand for?",
                "Which element is {s}?",
                "{s} is the symbol of which element?",
                "Name the element with the symbol {s}.",
                "Tell me which element has the symbol {s}.",
                "In chemistry, what does {s} mean?",
                "Which element has the chemical symbol {s}?",
            ),
            novel=("Which element is written {s}?", "For which element does {s} stand?"),
        ),
        Relation(
            name="number",
            facts=tuple(Fact(e.name, str(e.number)) for e in ELEMENTS),
            reply="The atomic number of {s} is {a}.",
            statements=(
                "The atomic number of {s} is {a}.",
                "{s} has the atomic number {a}.",
                "The element {s} has the number {a}.",
                "Every atom of {s} has {a} protons.",
                "An atom of {s} has the proton count {a}.",
            ),
            cores=(
                "What is the atomic number of {s}?",
                "Which atomic number does {s} have?",
                "What atomic number does {s} have?",
                "How many protons does an atom of {s} have?",
                "Tell me the atomic number of {s}.",
                "Name the atomic number of {s}.",
                "What is the number of the element {s}?",
                "How many protons does {s} have?",
                "{s} has which atomic number?",
            ),
            novel=("Give me the atomic number of {s}.", "How many protons are in an atom of {s}?"),
        ),
        Relation(
            name="number-of",
            facts=by_number,
            reply="The element with the atomic number {s} is {a}.",
            statements=(
                "The element with the atomic number {s} is {a}.",
                "The atomic number {s} belongs to {a}.",
                "Element number {s} is {a}.",
                "The atom with the proton count {s} is {a}.",
            ),
            cores=(
                "Which element has the atomic number {s}?",
                "What element has the atomic number {s}?",
                "Which element is number {s}?",
                "What is element number {s}?",
                "Name the element with the atomic number {s}.",
                "Tell me the element with the atomic number {s}.",
                "The atomic number {s} belongs to which element?",
                "Which element has the proton count {s}?",
            ),
            novel=("To which element does the atomic number {s} belong?", "Name element number {s}."),
        ),
    )


def _named(trait: str) -> str:
    """The planet with a trait, as a noun."""
    if trait.startswith("the "):
        return f"{trait} planet"
    return f"the planet that is {trait}"


def _planets() -> tuple[Relation, ...]:
    ranked = tuple(zip(PLANETS, ORDINALS, strict=False))
    return (
        Relation(
            name="planet-place",
            facts=tuple(Fact(planet, place) for planet, place in ranked),
            reply="{s} is the {a} planet from the Sun.",
            statements=(
                "{s} is the {a} planet from the Sun.",
                "Counting from the Sun, {s} is the {a} planet.",
                "{s} has the {a} place from the Sun.",
            ),
            cores=(
                "Which place from the Sun does {s} have?",
                "What place from the Sun does {s} have?",
                "Counting from the Sun, which planet is {s}?",
                "In which place from the Sun is {s}?",
                "{s} is which planet from the Sun?",
                "Tell me the place of {s} from the Sun.",
                "What is the place of {s} from the Sun?",
                "Which planet from the Sun is {s}?",
            ),
            novel=("Counting from the Sun, what place does {s} have?", "{s} is in which place from the Sun?"),
            weight=0.4,
        ),
        Relation(
            name="planet-at",
            facts=tuple(Fact(place, planet, {"named": f"the {place} planet"}) for planet, place in ranked),
            reply="The {s} planet from the Sun is {a}.",
            statements=(
                "The {s} planet from the Sun is {a}.",
                "The {s} place from the Sun belongs to {a}.",
                "Counting from the Sun, the {s} planet is {a}.",
            ),
            cores=(
                "Which planet is the {s} from the Sun?",
                "What is the {s} planet from the Sun?",
                "Which planet is {s} from the Sun?",
                "Counting from the Sun, what is the {s} planet?",
                "Name the {s} planet from the Sun.",
                "Tell me the {s} planet from the Sun.",
                "What planet is {s} from the Sun?",
                "The {s} planet from the Sun is which one?",
            ),
            novel=("Give me the {s} planet from the Sun.", "Which is the {s} planet from the Sun?"),
            weight=0.4,
            follow_up="And the {s} one?",
        ),
        Relation(
            name="planet-title",
            facts=tuple(Fact(title, planet) for title, planet in PLANET_TITLES),
            reply="{a} is {s}.",
            statements=("{a} is {s}.", "{s} is {a}.", "We know {a} as {s}.", "Of all planets, {a} is {s}."),
            cores=(
                "What is {s}?",
                "What is the name of {s}?",
                "Name {s}.",
                "Tell me the name of {s}.",
                "What do we call {s}?",
                "Do you know {s}?",
            ),
            novel=("Give me the name of {s}.", "What name does {s} have?"),
            weight=0.6,
        ),
        Relation(
            name="planet-trait",
            facts=tuple(Fact(trait, planet, {"named": _named(trait)}) for trait, planet in PLANET_TRAITS),
            reply="{a} is {s}.",
            statements=("{a} is {s}.", "Of all planets, {a} is {s}.", "The planet that is {s} is {a}."),
            cores=(
                "Which planet is {s}?",
                "What planet is {s}?",
                "Which of the planets is {s}?",
                "Name the planet that is {s}.",
                "Tell me which planet is {s}.",
                "Do you know which planet is {s}?",
                "The planet that is {s} is which one?",
            ),
            novel=("Give me the planet that is {s}.", "Of all planets, which is {s}?"),
            weight=0.6,
            follow_up="And which is {s}?",
        ),
    )
