"""`/set`: every parameter is typed from its field, and nonsense gives one line."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from nanochat.cli.chat_settings import changed, setting_names, settings
from nanochat.infer.sampler import SamplingParams


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("temperature", "0.2", 0.2),
        ("temperature", "1", 1.0),
        ("top_k", "40", 40),
        ("top_k", "none", None),
        ("top_p", "0.9", 0.9),
        ("min_p", "5e-2", 0.05),
        ("repetition_penalty", "1.2", 1.2),
        ("logit_bias", "[[12, -5], [3, 1.5]]", ((12, -5.0), (3, 1.5))),
        ("logit_bias", "none", ()),
        ("logprobs", "0", 0),
        ("seed", "3", 3),
        ("seed", "None", None),
        ("max_new_tokens", "9", 9),
        ("stop", "END", ("END",)),
        ("stop", r"'a b' \n\n \t", ("a b", "\n\n", "\t")),
        ("stop", '["a", "\\n"]', ("a", "\n")),
        ("stop", "none", ()),
        ("stop", "# = x", ("#", "=", "x")),
    ],
)
def test_a_value_has_the_type_of_its_field(name, text, value):
    before = SamplingParams(logit_bias=((1, 1.0),), stop=("x",), seed=1, top_k=1)
    assert changed(before, name, text) == replace(before, **{name: value})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("temperature", "hot", "temperature: expected float, got 'hot'"),
        ("temperature", "-1", "temperature must be 0"),
        ("temperature", "NaN", "temperature must be 0"),
        ("temperature", "9e9", "temperature must be 0 .greedy. to 100, not 9e.09"),
        ("temperature", "none", "temperature: expected float"),
        ("top_k", "0", "top_k must be at least 1"),
        ("top_k", "1.5", "top_k: expected int"),
        ("top_p", "2", "top_p must be"),
        ("seed", "true", "seed: expected int"),
        ("stop", "[1]", r"stop\[0\]: expected str"),
        ("stop", "[", "neither words nor a JSON list"),
        ("stop", "'open", "neither words nor a JSON list"),
        ("stop", '""', "non-empty"),
        ("logit_bias", "12", r"logit_bias\[0\]: expected a list"),
        ("max_new_tokens", "[" * 10_000, "max_new_tokens: expected int"),
        ("temprature", "1", "did you mean temperature"),
        ("x", "1", "there are temperature, top_k"),
    ],
)
def test_nonsense_is_refused_in_one_line(name, text, message):
    with pytest.raises(ValueError, match=message) as refusal:
        changed(SamplingParams(), name, text)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 300


words = st.text(st.characters(codec="utf-8", exclude_characters="'\\\"["), min_size=1).filter(
    lambda word: word.strip() and word.lower() != "none"
)


@pytest.mark.slow
@settings_of_hypothesis(max_examples=25)
@given(
    st.builds(
        SamplingParams,
        temperature=st.floats(0, 9),
        top_k=st.none() | st.integers(1, 99),
        min_p=st.floats(0, 1),
        seed=st.none() | st.integers(),
        stop=st.lists(words, max_size=3).map(tuple),
        logit_bias=st.lists(st.tuples(st.integers(0, 99), st.floats(-9, 9)), max_size=3).map(tuple),
    )
)
def test_what_is_shown_can_be_set(params):
    restored = SamplingParams()
    for name, value in settings(params):
        restored = changed(restored, name, value)
    assert restored == params


def test_every_parameter_is_shown():
    assert [name for name, _ in settings(SamplingParams())] == setting_names()
