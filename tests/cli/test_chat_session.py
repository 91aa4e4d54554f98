"""A conversation: what each prompt contains, and that every change leaves a conversation that can continue."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.cli import chat_session as module
from nanochat.cli.chat_models import Speaker
from nanochat.cli.chat_session import ChatSession, Exchange, parts_of
from nanochat.infer.engine import Engine
from nanochat.infer.sampler import SamplingParams
from nanochat.infer.window import fit_messages
from nanochat.tokenizer.chat_format import parse_reply, render_prompt

GREEDY = SamplingParams(temperature=0, max_new_tokens=64)


@pytest.fixture
def session(speaker):
    return ChatSession([speaker], GREEDY)


def answer(session: ChatSession, question: str, *, again: bool = False) -> list[str]:
    """Ask and generate to the end: each side's answer."""
    with session.asking(question, again=again) as generations:
        for generation in generations:
            while not generation.finished:
                generation.step()
    return [generation.reply().answer for generation in generations]


def test_each_prompt_holds_the_conversation_so_far(session, say, script, tokenizer):
    session.set_system("Be short.")
    say("Hello!")
    say("So ", ("1+1",), "two.")
    say("Bye.")
    for question in ("Hi", "1+1?", "Good bye"):
        answer(session, question)
    assert [message["role"] for message in session.messages] == ["system", *["user", "assistant"] * 3]
    assert session.messages[4]["content"] == [
        {"type": "text", "text": "So "},
        {"type": "python", "text": "1+1"},
        {"type": "python_output", "text": "2"},
        {"type": "text", "text": "two."},
    ]
    assert script.prompts == [render_prompt(tokenizer, session.messages[:n]) for n in (2, 4, 6)]


def test_closing_an_answer_keeps_what_was_said(session, say):
    say("0123")
    with session.asking("count") as (generation,):
        for _ in range(2):
            while not generation.step():
                pass
    assert session.messages[-1] == {"role": "assistant", "content": "01"}
    assert generation.reply().finish_reason == "interrupted"
    assert not session.main.speaker.engine.busy


def test_an_exception_keeps_what_was_said_and_frees_the_engine(session, say, script, tokenizer):
    say("0123")

    def press() -> None:
        if script[:1] == tokenizer.encode("2"):
            raise KeyboardInterrupt

    script.before_token = press
    with pytest.raises(KeyboardInterrupt):
        answer(session, "count")
    assert session.messages[-1]["content"] == "01"
    assert not session.main.speaker.engine.busy


def test_an_answer_stopped_before_its_first_token_changes_nothing(session, say):
    say("One.")
    answer(session, "first")
    before = session.messages
    for again in (False, True):
        with session.asking("second", again=again):
            pass
        assert session.messages == before


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize(("question", "message"), [("x" * 200, "shorten"), (" \n", "empty")])
def test_a_question_that_is_refused_changes_nothing(session, say, question, message, again):
    say("One.")
    answer(session, "first")
    before = session.messages
    with pytest.raises(ValueError, match=message), session.asking(question, again=again):
        pass
    assert session.messages == before
    assert not session.main.speaker.engine.busy


def test_again_replaces_the_last_turn(session, say, script):
    for text in ("One.", "Two.", "Another two."):
        say(text)
    answer(session, "first")
    answer(session, "second")
    assert answer(session, "second, edited", again=True) == ["Another two."]
    assert [message["content"] for message in session.messages] == [
        *("first", "One."),
        *("second, edited", "Another two."),
    ]
    assert b"Two." not in bytes(token for token in script.prompts[-1] if token < 256)


def test_undo_returns_the_question_and_empties_the_probabilities(session, say):
    say("One.")
    answer(session, "first")
    assert session.undo() == "first"
    assert (session.messages, session.main.last) == ([], None)
    with pytest.raises(ValueError, match="nothing has been asked"):
        session.undo()


def test_a_new_conversation_keeps_the_system_prompt(session, say):
    session.set_system("Be short.")
    say("One.")
    answer(session, "first")
    session.forget()
    assert session.messages == [{"role": "system", "content": "Be short."}]
    session.set_system(" ")
    assert session.messages == []


def test_a_long_conversation_is_kept_whole_and_its_prompt_is_shortened(session, say, script):
    session.params = SamplingParams(temperature=0, max_new_tokens=20)
    for n in range(40):
        say("An answer.")
        answer(session, f"question {n}")
    assert len(session.main.exchanges) == 40
    assert max(map(len, script.prompts)) <= session.main.speaker.engine.max_seq_len - 20
    text = bytes(token for token in script.prompts[-1] if token < 256)
    assert b"question 0A" in text
    assert b"question 39" in text
    kept = text.count(b"question")
    assert session.main.last.dropped == 40 - kept


@given(lengths=st.lists(st.integers(1, 4), max_size=40), limit_tokens=st.integers(1, 64))
def test_a_prompt_is_what_the_whole_conversation_would_give(speaker_once, lengths, limit_tokens):
    """Only the turns that can fit are rendered, which must not change the choice."""
    exchanges = [Exchange("q" * length, [{"type": "text", "text": "a"}]) for length in lengths]
    params = SamplingParams(max_new_tokens=limit_tokens, seed=1)
    tokenizer = speaker_once.engine.tokenizer
    generation = module._generation(speaker_once, None, exchanges, "last", params)
    generation.close()
    whole = fit_messages(
        [*module._messages(None, exchanges), {"role": "user", "content": "last"}],
        lambda kept: len(render_prompt(tokenizer, kept)),
        speaker_once.engine.max_seq_len - limit_tokens,
    )
    assert generation.reply().context_tokens == len(render_prompt(tokenizer, whole))


@pytest.mark.parametrize("pieces", [("text",), (("1+1",), "two"), ("a ", ("2*3",), "b ", ("1/0",), "c")])
def test_the_parts_are_those_of_the_tokens(session, say, tokenizer, pieces):
    say(*pieces)
    answer(session, "?")
    events = session.main.last.events
    assert parts_of(events, tokenizer) == parse_reply(tokenizer, [event.token for event in events])


@pytest.mark.parametrize(("limit", "output"), [(8, []), (9, []), (10, []), (11, ["52"])])
def test_an_output_that_was_cut_off_is_not_kept_as_the_tools(session, say, limit, output):
    session.params = SamplingParams(temperature=0, max_new_tokens=limit)
    say(("37+15",), "!")  # a token before the call, its five, its end; then four of the output
    answer(session, "?")
    assert session.main.exchanges[0].parts == [
        {"type": "python", "text": "37+15"},
        *({"type": "python_output", "text": text} for text in output),
    ]


def test_a_stop_string_does_not_become_part_of_the_conversation(session, say):
    session.params = SamplingParams(temperature=0, stop=("END",))
    say("Well. END and more")
    answer(session, "?")
    assert session.messages[-1]["content"] == "Well. "


def test_a_loaded_conversation_continues_as_the_saved_one(session, speaker, say, script):
    session.set_system("Be short.")
    say("So ", ("1+1",), "two.")
    answer(session, "1+1?")
    other = ChatSession([speaker], GREEDY)
    other.load(session.messages)
    assert other.messages == session.messages
    for each in (session, other):
        say("Fine.")
        answer(each, "sure?")
    assert script.prompts[-1] == script.prompts[-2]


def test_another_model_continues_the_conversation(session, other_speaker, say):
    say("One.")
    answer(session, "first")
    before = session.messages
    session.change_model(other_speaker)
    assert session.messages == before
    assert session.main.last.speaker.label == "sft@7"
    assert session.context_tokens(session.main) > 0
    say("Two.")
    answer(session, "second")
    assert session.main.last.reply().model_tag == "base"


def test_two_models_get_the_same_seed_and_keep_their_own_answers(speaker, other_speaker, say, script):
    session = ChatSession([speaker, other_speaker], SamplingParams(max_new_tokens=8))
    for text in ("a1", "b1", "a2", "b2"):
        say(text)
    assert answer(session, "first") == ["a1", "b1"]
    assert answer(session, "second") == ["a2", "b2"]
    seeds = [params.seed for params in script.params]
    assert seeds[0] == seeds[1]
    assert seeds[2] == seeds[3]
    assert seeds[0] != seeds[2]
    texts = [bytes(token for token in prompt if token < 256) for prompt in script.prompts]
    assert texts[2:] == [b"firsta1second", b"firstb1second"]
    session.undo()
    assert [len(side.exchanges) for side in session.sides] == [1, 1]


def test_equal_seeds_give_equal_answers(model, tokenizer):
    session = ChatSession(
        [Speaker("sft", 7, Engine(model, tokenizer, max_rows=1))], SamplingParams(max_new_tokens=9)
    )
    answer(session, "first")
    seed = session.main.last.reply().seed
    tokens = [event.token for event in session.main.last.events]
    session.params = SamplingParams(max_new_tokens=9, seed=seed)
    answer(session, "first", again=True)
    assert [event.token for event in session.main.last.events] == tokens


def test_what_is_no_character_is_replaced(session, say):
    say("Yes.")
    session.set_system("a\udcff")
    answer(session, "b\ud800c")
    assert [message["content"] for message in session.messages] == ["a\ufffd", "b\ufffdc", "Yes."]
