"""The world has one true answer per question, and every wording fits every fact."""

import re

import pytest

from nanochat.builtin import equivalents
from nanochat.builtin.everyday import OPPOSITES, PEOPLE, number_word
from nanochat.builtin.geography import COUNTRIES
from nanochat.builtin.lexicon import WORDS
from nanochat.builtin.nature import ANIMALS, COLORS, ELEMENTS, PLANETS
from nanochat.builtin.relations import Relation
from nanochat.builtin.world import relations


def assert_distinct(values):
    values = list(values)
    assert len(values) == len(set(values))


def test_names_occur_once():
    assert_distinct(c.name for c in COUNTRIES)
    assert_distinct(c.capital for c in COUNTRIES)
    assert_distinct(e.name for e in ELEMENTS)
    assert_distinct(e.symbol for e in ELEMENTS)
    assert_distinct(e.number for e in ELEMENTS)
    assert_distinct(a.name for a in ANIMALS)
    assert_distinct(thing for thing, _ in COLORS)
    assert_distinct(word for pair in OPPOSITES for word in pair)
    assert_distinct(name for name, _, _ in PEOPLE)
    assert_distinct(WORDS)


def test_the_world_has_its_size():
    assert len(COUNTRIES) >= 90
    assert len(ELEMENTS) >= 60
    assert len(PLANETS) == 8
    assert len(ANIMALS) >= 80
    assert len(OPPOSITES) >= 120
    assert len(WORDS) >= 600


def test_fields_come_from_small_sets():
    continents = {"Europe", "Asia", "Africa", "North America", "South America", "Oceania", ""}
    assert {c.continent for c in COUNTRIES} == continents
    assert {a.group for a in ANIMALS} == {"mammal", "bird", "fish", "amphibian", "reptile", "insect"}
    assert all(re.fullmatch("[A-Z][a-z]?", e.symbol) for e in ELEMENTS)
    assert all(re.fullmatch("[a-z]{4,14}", word) for word in WORDS)


def test_elements_ascend():
    numbers = [e.number for e in ELEMENTS]
    assert numbers == sorted(numbers)
    assert numbers[:38] == list(range(1, 39))


@pytest.mark.parametrize(
    ("n", "word"), [(0, "zero"), (12, "twelve"), (20, "twenty"), (47, "forty-seven"), (100, "one hundred")]
)
def test_number_word(n, word):
    assert number_word(n) == word


@pytest.mark.parametrize("r", relations(), ids=lambda r: r.name)
def test_relation(r: Relation):
    assert_distinct(fact.subject for fact in r.facts)
    assert_distinct((*r.cores, *r.novel))
    assert len(r.cores) >= 6
    assert len(r.novel) >= 2
    for fact in r.facts:
        for template in (*r.statements, r.reply):
            text = fact.fill(template)
            assert text.endswith(".")
            assert fact.answer.lower() in text.lower()
            assert "{" not in text
        for core in (*r.cores, *r.novel, r.follow_up):
            question = fact.fill(core)
            assert question[0] == question[0].upper()
            assert question[-1] in "?."


def test_second_true_answers_belong_to_facts_and_leave_wrong_ones():
    for r in relations():
        subjects = {fact.subject for fact in r.facts}
        assert set(equivalents._BY_SUBJECT.get(r.name, {})) <= subjects, r.name
        assert set(equivalents._BY_ANSWER.get(r.name, {})) <= set(r.answers), r.name
        for fact in r.facts:
            assert not set(r.wrong_answers(fact)) & {fact.answer, *fact.also, fact.subject}
            assert r.wrong_answers(fact)


def test_every_statement_of_a_relation_has_its_own_words():
    for r in relations():
        assert_distinct(r.statements)


def test_relation_names_and_wordings_count():
    assert_distinct(r.name for r in relations())
    from nanochat.builtin.phrasing import PREFIXES

    assert all(len(r.cores) * len(set(PREFIXES)) >= 20 for r in relations())
