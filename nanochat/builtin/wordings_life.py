"""Animals, colors and opposites: facts and wordings."""

from __future__ import annotations

from collections.abc import Callable

from nanochat.builtin.everyday import OPPOSITES, with_article
from nanochat.builtin.nature import ANIMALS, COLORS, Animal
from nanochat.builtin.relations import Fact, Relation


def relations() -> tuple[Relation, ...]:
    """Relations of animals, colors and opposites."""
    return (*_animals(), _colors(), _opposites())


def _facts(answer: Callable[[Animal], str]) -> tuple[Fact, ...]:
    return tuple(
        Fact(
            animal.name,
            answer(animal),
            {"one": with_article(animal.name), "many": animal.plural, "an_a": with_article(answer(animal))},
        )
        for animal in ANIMALS
        if answer(animal)
    )


def _animals() -> tuple[Relation, ...]:
    follow_up = "And {one}?"
    return (
        Relation(
            name="animal-group",
            facts=_facts(lambda animal: animal.group),
            reply="{one} is {an_a}.",
            statements=(
                "{one} is {an_a}.",
                "The {s} is {an_a}.",
                "Like every {a}, the {s} has its place in nature.",
                "We count the {s} as {an_a}.",
                "{an_a} that many people know is the {s}.",
            ),
            cores=(
                "What kind of animal is {one}?",
                "What sort of animal is {one}?",
                "Which kind of animal is {one}?",
                "To which group of animals does {one} belong?",
                "{one} is what kind of animal?",
                "What is {one}?",
                "Tell me what kind of animal {one} is.",
                "Which group does the {s} belong to?",
                "What kind of animal is the {s}?",
            ),
            novel=("What kind of creature is {one}?", "Which group of animals has the {s} in it?"),
            follow_up=follow_up,
        ),
        Relation(
            name="animal-home",
            facts=_facts(lambda animal: animal.home),
            reply="{one} lives {a}.",
            statements=(
                "{one} lives {a}.",
                "{many} live {a}.",
                "The home of the {s} is {a}.",
                "You can find {many} {a}.",
                "If you look for {one}, look {a}.",
            ),
            cores=(
                "Where does {one} live?",
                "Where do {many} live?",
                "Where can I find {one}?",
                "What is the home of the {s}?",
                "Where is the home of {many}?",
                "In what place does {one} live?",
                "Tell me where {one} lives.",
                "Where does the {s} live?",
                "Where would I look for {one}?",
            ),
            novel=("Where is the home of the {s}?", "Where can you find {many}?"),
            follow_up=follow_up,
        ),
        Relation(
            name="animal-food",
            facts=_facts(lambda animal: animal.food),
            reply="{one} eats {a}.",
            statements=(
                "{one} eats {a}.",
                "{many} eat {a}.",
                "The food of the {s} is {a}.",
                "When the {s} is hungry, it looks for {a}.",
                "The {s} lives on {a}.",
            ),
            cores=(
                "What does {one} eat?",
                "What do {many} eat?",
                "What is the food of the {s}?",
                "What does the {s} eat?",
                "What do {many} live on?",
                "Tell me what {one} eats.",
                "What food does {one} eat?",
                "What does {one} like to eat?",
                "Which food do {many} eat?",
            ),
            novel=("What does the {s} live on?", "What kind of food does {one} eat?"),
            follow_up=follow_up,
        ),
        Relation(
            name="animal-young",
            facts=_facts(lambda animal: animal.young),
            reply="The young of {one} is called {an_a}.",
            statements=(
                "The young of {one} is called {an_a}.",
                "A young {s} is called {an_a}.",
                "The baby of {one} is {an_a}.",
                "A baby {s} is {an_a}.",
                "{many} have young that we call by the name {a}.",
            ),
            cores=(
                "What is the young of {one} called?",
                "What is a young {s} called?",
                "What is a baby {s} called?",
                "What do we call a young {s}?",
                "What do we call the baby of {one}?",
                "Tell me the name of a baby {s}.",
                "What is the name of a young {s}?",
                "What name do we give a baby {s}?",
                "Name the young of {one}.",
            ),
            novel=("What do you call a baby {s}?", "What name does a young {s} have?"),
            follow_up=follow_up,
        ),
        Relation(
            name="animal-sound",
            facts=_facts(lambda animal: animal.sound),
            reply="{one} {a}.",
            statements=(
                "{one} {a}.",
                "The {s} {a}.",
                "Listen: the {s} {a}.",
                "Every child knows that {one} {a}.",
                "When {one} wants to be heard, it {a}.",
            ),
            cores=(
                "What sound does {one} make?",
                "What noise does {one} make?",
                "Which sound does the {s} make?",
                "What sound do {many} make?",
                "How does {one} sound?",
                "Tell me the sound of {one}.",
                "What does {one} do to be heard?",
                "What sound does the {s} make?",
                "What does {one} say?",
            ),
            novel=("Which noise does the {s} make?", "What noise do {many} make?"),
            follow_up=follow_up,
        ),
    )


def _colors() -> Relation:
    return Relation(
        name="color",
        facts=tuple(Fact(thing, color) for thing, color in COLORS),
        reply="The color of {s} is {a}.",
        statements=(
            "The color of {s} is {a}.",
            "{s} is {a}.",
            "{a} is the color of {s}.",
            "If you paint {s}, use {a}.",
            "When you look at {s}, you see {a}.",
        ),
        cores=(
            "What color is {s}?",
            "What is the color of {s}?",
            "Which color is {s}?",
            "Which color does {s} have?",
            "What color does {s} have?",
            "Tell me the color of {s}.",
            "Name the color of {s}.",
            "{s} has which color?",
        ),
        novel=("In which color do I paint {s}?", "Give me the color of {s}."),
    )


def _opposites() -> Relation:
    pairs = (*OPPOSITES, *((right, left) for left, right in OPPOSITES))
    return Relation(
        name="opposite",
        facts=tuple(Fact(word, other) for word, other in pairs),
        reply="The opposite of {s} is {a}.",
        statements=(
            "The opposite of {s} is {a}.",
            "{s} is the opposite of {a}.",
            "{s} and {a} are opposites.",
            "The word {a} means the opposite of {s}.",
            "The words {s} and {a} mean opposite things.",
        ),
        cores=(
            "What is the opposite of {s}?",
            "Which word is the opposite of {s}?",
            "What word is the opposite of {s}?",
            "What word means the opposite of {s}?",
            "Tell me the opposite of {s}.",
            "Give me the opposite of {s}.",
            "Name the opposite of {s}.",
            "The opposite of {s} is which word?",
            "Do you know the opposite of {s}?",
            "What is the opposite of the word {s}?",
        ),
        novel=("Which word means the opposite of {s}?", "Find the opposite of {s}."),
        weight=2.0,
        follow_up="And of {s}?",
    )
