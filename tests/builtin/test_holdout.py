"""The hold-out rule is stable, holds out the stated shares, and ignores the order of operands."""

import re

from hypothesis import given
from hypothesis import strategies as st

from nanochat.builtin.holdout import bucket, held_out_letter, held_out_sum, plain, validation_document
from nanochat.builtin.letters import SPELL_QUESTIONS
from nanochat.builtin.world import relations

numbers = st.integers(0, 9999)


def test_bucket_is_pinned():
    assert [bucket("a"), bucket("a", "b"), bucket("ab")] == [3968984753, 4287968012, 3732216948]


@given(numbers, st.sampled_from("+*"), numbers)
def test_sums_and_products_are_held_out_in_both_orders(a, op, b):
    assert held_out_sum(a, op, b) == held_out_sum(b, op, a)


@given(st.integers(0, 9), st.sampled_from("+-*/"), st.integers(0, 9))
def test_small_tables_are_taught_whole(a, op, b):
    assert not held_out_sum(a, op, b)


@given(numbers, st.sampled_from("+-*/"), st.integers(0, 2))
def test_doubling_and_counting_on_are_taught_whole(a, op, b):
    assert not held_out_sum(a, op, b)


def test_shares():
    sums = sum(held_out_sum(a, "+", b) for a in range(10, 110) for b in range(110, 210))
    letters = sum(held_out_letter(f"word{i}", letter) for i in range(1000) for letter in "abcdefgh")
    texts = sum(validation_document(f"text {i}") for i in range(16_000))
    assert abs(sums / 10_000 - 1 / 16) < 0.01
    assert abs(letters / 8000 - 1 / 8) < 0.01
    assert abs(texts / 16_000 - 1 / 16) < 0.01


def test_wordings_that_differ_in_polite_words_and_marks_alone_are_one():
    wordings = (
        "Tell me the capital of {s}.",
        "Can you tell me the capital of {s}?",
        "Do you know the capital of {s}?",
    )
    assert {plain(wording) for wording in wordings} == {"The capital of {s}"}
    spellings = (
        'Spell "{w}".',
        "Spell {w}.",
        'Please spell "{w}" for me.',
        "How do you spell {w}?",
        "Can you spell {w}?",
    )
    assert {plain(wording) for wording in spellings} == {"Spell {w}"}


def test_a_wording_within_another_shares_its_side():
    """A question held out in one wording would else be found whole in another."""

    def words(core):
        return f" {re.sub(r'[^a-z0-9{} ]', '', core.lower())} "

    cores = {r.name: r.cores for r in relations()} | {"spell": SPELL_QUESTIONS}
    nested = [
        (name, short, long)
        for name, of in cores.items()
        for short in of
        for long in of
        if words(short) in words(long) and plain(short) != plain(long)
    ]
    assert not nested
