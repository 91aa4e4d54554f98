"""How a request processes its tokens: text, stop strings, ends, tool outputs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.infer.request import Request, StopStrings
from nanochat.infer.sampler import SamplingParams
from nanochat.infer.tools import DEFAULT_TOOLS
from nanochat.tokenizer.special import ASSISTANT_END, OUTPUT_END, OUTPUT_START, PYTHON_END, PYTHON_START


def request(tokenizer, prompt=(1,), max_seq_len=1000, **params) -> Request:
    return Request(0, prompt, SamplingParams(**{"seed": 1, **params}), tokenizer, DEFAULT_TOOLS, max_seq_len)


def play(request: Request, tokens) -> list:
    """Events of a model that writes these tokens."""
    events = []
    for token in tokens:
        events += request.accept(token)
        if request.finished:
            break
    return events


def test_text_comes_in_whole_characters(tokenizer):
    events = play(request(tokenizer), tokenizer.encode("né🙂!"))
    assert [event.text for event in events] == ["n", "", "é", "", "", "", "🙂", "!"]


def test_pending_is_the_prompt_first_and_then_the_latest_token(tokenizer):
    r = request(tokenizer, [5, 6, 7])
    assert (r.tokens[r.cached :], r.cached) == ([5, 6, 7], 0)
    r.accept(65)
    assert (r.tokens[r.cached :], r.cached) == ([65], 3)


def test_a_tool_output_is_pending_as_a_whole(tokenizer):
    r = request(tokenizer)
    play(r, [tokenizer.special(PYTHON_START), *tokenizer.encode("1+1")])
    events = r.accept(tokenizer.special(PYTHON_END))
    assert [event.forced for event in events] == [False, True, True, True]
    assert r.tokens[r.cached :] == [event.token for event in events]


@pytest.mark.parametrize("room", [2, 9])
def test_a_call_that_ends_an_answers_beginning_is_answered_before_the_next_token(tokenizer, room):
    call = [tokenizer.special(PYTHON_START), *tokenizer.encode("1+1"), tokenizer.special(PYTHON_END)]
    output = [tokenizer.special(OUTPUT_START), *tokenizer.encode("2"), tokenizer.special(OUTPUT_END)]
    params = SamplingParams(seed=1, max_new_tokens=room)
    r = Request(0, [1, *call], params, tokenizer, DEFAULT_TOOLS, 20, reply=len(call))
    expected = output[: room - 1]
    assert r.tokens == [1, *call, *expected]
    events = r.accept(65)
    assert [(event.token, event.forced) for event in events] == [(at, True) for at in expected] + [
        (65, False)
    ]
    assert r.finished == (room == 2)


@pytest.mark.parametrize("given", [1, 2, 3])
def test_an_output_that_an_answers_beginning_breaks_off_is_the_tools_to_the_end(tokenizer, given):
    """The model would make up the rest."""
    call = [tokenizer.special(PYTHON_START), *tokenizer.encode("6*7"), tokenizer.special(PYTHON_END)]
    output = [tokenizer.special(OUTPUT_START), *tokenizer.encode("42"), tokenizer.special(OUTPUT_END)]
    begun = [*call, *output[:given]]
    r = Request(0, [1, *begun], SamplingParams(), tokenizer, DEFAULT_TOOLS, 100, reply=len(begun))
    assert [event.token for event in r.accept(65)] == [*output[given:], 65]


def test_a_tool_output_ends_where_the_context_does(tokenizer):
    r = request(tokenizer, max_seq_len=7)
    play(r, [tokenizer.special(PYTHON_START), *tokenizer.encode("1+1"), tokenizer.special(PYTHON_END)])
    done = r.completion()
    assert (done.ids[-1], done.finish_reason) == (tokenizer.special(OUTPUT_START), "length")


@pytest.mark.parametrize("end", ["bos", ASSISTANT_END])
def test_an_end_token_stops_and_is_no_text(tokenizer, end):
    token = tokenizer.bos if end == "bos" else tokenizer.special(end)
    r = request(tokenizer)
    events = play(r, [*tokenizer.encode("hi"), token, *tokenizer.encode("more")])
    assert [event.finished for event in events] == [None, None, "stop"]
    done = r.completion()
    assert (done.text, done.ids, done.finish_reason) == ("hi", [*tokenizer.encode("hi"), token], "stop")


def test_the_answer_ends_at_max_new_tokens_or_where_the_context_does(tokenizer):
    assert len(play(request(tokenizer, max_new_tokens=3), [65] * 9)) == 3
    events = play(request(tokenizer, prompt=[1] * 5, max_seq_len=9), [65] * 9)
    assert [event.finished for event in events] == [None, None, None, "length"]


def test_an_answer_cut_inside_a_character_or_stop_string_shows_the_text_so_far(tokenizer):
    r = request(tokenizer, max_new_tokens=3, stop=("ab!",))
    play(r, tokenizer.encode("abé"))
    assert r.completion().text == "ab�"


def test_a_stop_string_is_found_across_tokens_and_withheld(tokenizer):
    r = request(tokenizer, stop=("END", "\n\n"))
    events = play(r, tokenizer.encode("The EN and END of it"))
    assert "".join(event.text for event in events) == "The EN and "
    assert events[-1].finished == "stop"
    assert r.completion().text == "The EN and "


def test_a_tool_output_is_forced_verbatim_and_kept_out_of_the_answer(tokenizer):
    r = request(tokenizer, stop=("408",))
    script = [tokenizer.special(PYTHON_START), *tokenizer.encode("12*34"), tokenizer.special(PYTHON_END)]
    expected = [tokenizer.special(OUTPUT_START), *tokenizer.encode("408"), tokenizer.special(OUTPUT_END)]
    end = tokenizer.special(ASSISTANT_END)
    play(r, [*tokenizer.encode("So "), *script, *tokenizer.encode("it is."), end])
    done = r.completion()
    assert done.ids == [*tokenizer.encode("So "), *script, *expected, *tokenizer.encode("it is."), end]
    assert [token for token, forced in zip(done.ids, done.forced_mask, strict=True) if forced] == expected
    assert done.text == "So it is."


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_tokens_accepted_together_are_those_accepted_one_by_one(tokenizer, count):
    start, end = tokenizer.special(PYTHON_START), tokenizer.special(PYTHON_END)
    tokens = [*tokenizer.encode("Größe 語: "), start, *tokenizer.encode("12*34"), end, *tokenizer.encode("é")]
    specials = {start, end}
    single, together = (request(tokenizer, max_new_tokens=30) for _ in range(2))
    expected = play(single, [*tokens, tokenizer.bos])
    events = []
    while tokens:
        stop = next((at + 1 for at, token in enumerate(tokens[:count]) if token in specials), count)
        events += together.accept_all(tokens[:stop], [None] * len(tokens[:stop]))
        del tokens[:stop]
    events += together.accept_all([tokenizer.bos], [None])
    assert [event._replace(text="") for event in events] == [event._replace(text="") for event in expected]
    for part in ("text", "python", "python_output"):
        told, whole = (
            "".join(each.text for each in some if each.part == part) for some in (events, expected)
        )
        assert told == whole
    assert together.completion() == single.completion()
    assert together.cached == single.cached


def test_events_distinguish_text_code_and_output(tokenizer):
    r = request(tokenizer)
    script = [tokenizer.special(PYTHON_START), *tokenizer.encode("1+1"), tokenizer.special(PYTHON_END)]
    events = play(r, [*tokenizer.encode("a"), *script, *tokenizer.encode("b")])
    spoken = [(event.part, event.text) for event in events if event.text]
    assert spoken == [
        ("text", "a"),
        ("python", "1"),
        ("python", "+"),
        ("python", "1"),
        ("python_output", "2"),
        ("text", "b"),
    ]


@pytest.mark.parametrize(
    ("prompt", "word"), [([], "empty"), ([1] * 10, "10 tokens"), ([1, 999], "outside"), ([-1], "outside")]
)
def test_prompts_that_cannot_be_answered_are_refused(tokenizer, prompt, word):
    with pytest.raises(ValueError, match=word):
        request(tokenizer, prompt, max_seq_len=10)


def test_a_bias_on_an_id_outside_the_vocabulary_is_refused(tokenizer):
    with pytest.raises(ValueError, match="logit_bias"):
        request(tokenizer, logit_bias=((3, 1.0), (tokenizer.vocab_size, 1.0)))


def test_requests_without_a_seed_draw_different_numbers_and_those_with_one_the_same(tokenizer):
    assert request(tokenizer, seed=None).uniforms() != request(tokenizer, seed=None).uniforms()
    assert request(tokenizer, seed=4).uniforms() == request(tokenizer, [9, 9], seed=4).uniforms()


@given(
    st.text(alphabet="ab!", max_size=20),
    st.lists(st.text(alphabet="ab!", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(1, 3), min_size=20, max_size=20),
)
def test_stop_strings_do_not_depend_on_how_text_is_cut(text, stops, cuts):
    """In pieces or at once: the same text before the first complete stop string."""
    finder = StopStrings(tuple(stops))
    seen, stopped, at = "", False, 0
    for size in cuts:
        piece, stopped = finder.push(text[at : at + size])
        seen, at = seen + piece, at + size
        if stopped or at >= len(text):
            break
    if not stopped:
        assert seen + finder.flush() == text
        assert not any(stop in text for stop in stops)
    else:
        assert any(text.startswith(seen + stop) for stop in stops)
        assert not any(stop in seen for stop in stops)
