"""Messages of any client become the chat format, and answers with tool calls survive the way there and back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.conversations.openai_messages import from_openai
from nanochat.infer.request import Event, Request
from nanochat.infer.sampler import SamplingParams, TokenLogprobs
from nanochat.infer.tools import DEFAULT_TOOLS
from nanochat.serve.faults import ApiFault
from nanochat.serve.openai_answers import ChatAnswer, Heading, TextAnswer
from nanochat.serve.openai_schema import ChatBody, decode
from nanochat.serve.prompts import chat_prompt, conversation, described
from nanochat.tokenizer.chat_format import render_prompt
from nanochat.tokenizer.special import ASSISTANT_END, PYTHON_END, PYTHON_START, SPECIAL_TOKENS
from nanochat.tokenizer.tokenizer import Tokenizer

USER = {"role": "user", "content": "hi"}


def messages_of(*messages: dict[str, Any]) -> list[Any]:
    return decode(ChatBody, {"messages": list(messages)}).messages


def said(tokenizer: Tokenizer, *pieces: str | tuple[str]) -> list[int]:
    """The tokens of an answer; a tuple is a tool call."""
    ids: list[int] = []
    for piece in pieces:
        if isinstance(piece, str):
            ids += tokenizer.encode(piece)
        else:
            call = tokenizer.encode(*piece)
            ids += [tokenizer.special(PYTHON_START), *call, tokenizer.special(PYTHON_END)]
    return [*ids, tokenizer.special(ASSISTANT_END)]


def events_of(tokenizer: Tokenizer, ids: list[int], stop: tuple[str, ...] = ()) -> list[Event]:
    """The engine's events for an answer that samples `ids`; it runs the tools."""
    params = SamplingParams(max_new_tokens=len(ids) + 100, stop=stop)
    request = Request(0, render_prompt(tokenizer, [USER]), params, tokenizer, DEFAULT_TOOLS, 1000)
    events: list[Event] = []
    for token in ids:
        if request.finished:
            break
        events += request.accept(token)
    return events


def answer_to(tokenizer: Tokenizer, events: list[Event]) -> dict[str, Any]:
    heading = Heading("m", "m@1")
    answer = ChatAnswer(heading, tokenizer, 1, 3, include_usage=False, logprobs=False)
    return answer.whole({0: events})


def streamed(tokenizer: Tokenizer, events: list[Event], size: int) -> list[dict[str, Any]]:
    answer = ChatAnswer(Heading("m", "m@1"), tokenizer, 1, 3, include_usage=False, logprobs=False)
    chunks = answer.opening()
    for start in range(0, len(events), size):
        chunks += answer.chunks({0: events[start : start + size]})
    return chunks


@pytest.mark.parametrize(
    ("messages", "turns"),
    [
        ([USER], [USER]),
        (
            [{"role": "system", "content": "a"}, {"role": "developer", "content": "b"}, USER],
            [{"role": "system", "content": "a\n\nb"}, USER],
        ),
        ([USER, {"role": "user", "content": "there"}], [{"role": "user", "content": "hi\n\nthere"}]),
        ([USER, {"role": "system", "content": "now"}], [{"role": "user", "content": "hi\n\nnow"}]),
        (
            [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
            [{"role": "user", "content": "ab"}],
        ),
        (
            [
                USER,
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"id": "1", "function": {"name": "python", "arguments": "1+1"}}],
                },
                {"role": "tool", "content": "2"},
                {"role": "assistant", "content": "two"},
            ],
            [
                USER,
                {
                    "role": "assistant",
                    "content": [
                        {"type": "python", "text": "1+1"},
                        {"type": "python_output", "text": "2"},
                        {"type": "text", "text": "two"},
                    ],
                },
            ],
        ),
    ],
)
def test_roles_of_other_servers_fit_the_chat_format(messages: list[Any], turns: list[Any]) -> None:
    assert conversation(messages_of(*messages)) == turns


def call(name: str, arguments: str, identity: str) -> dict[str, Any]:
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}


TWO_CALLS = {
    "role": "assistant",
    "content": [{"type": "text", "text": "Bo"}, {"type": "text", "text": "th:"}],
    "tool_calls": [call("python", '{"code": "47*36"}', "a"), call("weather", '{"city": "Bonn"}', "b")],
}
OUT_OF_ORDER = [
    {"role": "tool", "tool_call_id": "b", "content": "rain"},
    {"role": "tool", "tool_call_id": "a", "content": "1692"},
]


@pytest.mark.parametrize(
    "messages",
    [
        [USER, {"role": "assistant", "content": "x"}, {"role": "assistant", "content": "y"}],
        [USER, {"role": "assistant", "content": ""}],
        [USER, TWO_CALLS],
        [USER, TWO_CALLS, *OUT_OF_ORDER],
        [USER, TWO_CALLS, *OUT_OF_ORDER, {"role": "assistant", "content": "done"}, USER],
    ],
)
def test_a_history_is_read_as_fine_tuning_reads_it(messages: list[Any]) -> None:
    assert conversation(messages_of(*messages)) == from_openai(messages)


def test_an_output_stands_after_its_call() -> None:
    _, reply = conversation(messages_of(USER, TWO_CALLS, *OUT_OF_ORDER))
    assert reply["content"] == [
        {"type": "text", "text": "Both:"},
        {"type": "python", "text": "47*36"},
        {"type": "python_output", "text": "1692"},
        {"type": "python", "text": "weather(city='Bonn')"},
        {"type": "python_output", "text": "rain"},
    ]


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "assistant", "content": "x"}],
        [{"role": "system", "content": "x"}],
        [{"role": "tool", "content": "x"}],
        [USER, {"role": "tool", "content": "x"}],
        [{"role": "user", "content": None}],
        [USER, {"role": "assistant", "content": "x"}, {"role": "tool", "content": "x"}],
        [USER, TWO_CALLS, {"role": "tool", "tool_call_id": "c", "content": "x"}],
        [USER, {"role": "assistant", "tool_calls": [call("get weather", "{}", "a")]}],
    ],
)
def test_messages_that_have_no_counterpart_are_refused(messages: list[Any]) -> None:
    with pytest.raises(ApiFault):
        conversation(messages_of(*messages))


def test_a_tool_call_is_reported_as_executed(tokenizer: Tokenizer) -> None:
    events = events_of(tokenizer, said(tokenizer, "so ", ("6*7",), "it is 42.", ("1/0",)))
    message = answer_to(tokenizer, events)["choices"][0]["message"]
    assert message["content"] == "so it is 42."
    assert message["executed_tools"] == [
        {"type": "python", "arguments": "6*7", "output": "42", "offset": 3},
        {"type": "python", "arguments": "1/0", "output": "error", "offset": 12},
    ]
    assert "tool_calls" not in json.dumps(message)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_chunks_of_any_size_say_the_same(tokenizer: Tokenizer, size: int) -> None:
    events = events_of(tokenizer, said(tokenizer, "é so ", ("6*7",), "it is 42."))
    whole = answer_to(tokenizer, events)["choices"][0]["message"]
    deltas = [chunk["choices"][0]["delta"] for chunk in streamed(tokenizer, events, size)]
    assert "".join(delta.get("content", "") for delta in deltas) == whole["content"]
    assert [tool for d in deltas for tool in d.get("executed_tools", [])] == whole["executed_tools"]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert deltas[-1] == {}


@given(st.lists(st.one_of(st.text("ab\n ", max_size=4), st.sampled_from([("1+1",), ("2*3",)])), max_size=5))
def test_an_answer_put_into_the_history_gives_its_own_tokens(pieces: list[Any]) -> None:
    tokenizer = Tokenizer({bytes([byte]): byte for byte in range(256)}, r"[\s\S]")
    events = events_of(tokenizer, said(tokenizer, *pieces))
    message = answer_to(tokenizer, events)["choices"][0]["message"]
    history = chat_prompt(tokenizer, messages_of(USER, message, {"role": "user", "content": "more"}))
    prompt = render_prompt(tokenizer, [USER])
    generated = [event.token for event in events]
    assert history[: len(prompt) + len(generated)] == [*prompt, *generated]
    continued = chat_prompt(tokenizer, messages_of(USER, message))
    assert continued == [*prompt, *generated[:-1]]  # without <|assistant_end|>


def test_a_call_cut_off_has_no_output(tokenizer: Tokenizer) -> None:
    ids = said(tokenizer, "so ", ("6*7",))[:6]
    request = Request(0, [tokenizer.bos], SamplingParams(max_new_tokens=6), tokenizer, DEFAULT_TOOLS, 100)
    events = [event for token in ids for event in request.accept(token)]
    choice = answer_to(tokenizer, events)["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["executed_tools"] == [
        {"type": "python", "arguments": "6*", "output": None, "offset": 3}
    ]
    _, reply = conversation(messages_of(USER, choice["message"]))
    assert reply["content"] == "so "


@pytest.mark.parametrize(("length", "output"), [(9, None), (10, None), (11, None), (12, "42")])
@pytest.mark.parametrize("size", [1, 100])
def test_an_output_cut_off_is_no_result(
    tokenizer: Tokenizer, length: int, output: str | None, size: int
) -> None:
    params = SamplingParams(max_new_tokens=length)
    request = Request(0, [tokenizer.bos], params, tokenizer, DEFAULT_TOOLS, 100)
    ids = said(tokenizer, "so ", ("6*7",))[:8]
    events = [event for token in ids for event in request.accept(token)]
    assert events[-1].finished == "length"
    expected = [{"type": "python", "arguments": "6*7", "output": output, "offset": 3}]
    assert answer_to(tokenizer, events)["choices"][0]["message"]["executed_tools"] == expected
    deltas = [chunk["choices"][0]["delta"] for chunk in streamed(tokenizer, events, size)]
    assert [tool for delta in deltas for tool in delta.get("executed_tools", [])] == expected


@pytest.mark.parametrize("size", [1, 3, 100])
def test_text_offsets_count_whole_characters(tokenizer: Tokenizer, size: int) -> None:
    """A token within a character has that character's offset."""
    params = SamplingParams(max_new_tokens=100, logprobs=0)
    request = Request(0, [tokenizer.bos], params, tokenizer, (), 1000)
    ids = tokenizer.encode("né🙂!é")
    events = [event for token in ids for event in request.accept(token, TokenLogprobs(-1.0, ()))]
    answer = TextAnswer(Heading("m", "m@1"), tokenizer, [""], 1, include_usage=False, top_logprobs=0)
    offsets = [
        offset
        for start in range(0, len(events), size)
        for chunk in answer.chunks({0: events[start : start + size]})
        for offset in chunk["choices"][0]["logprobs"]["text_offset"]
    ]
    assert offsets == [0, 1, 1, 2, 2, 2, 2, 3, 4, 4]


def test_rivals_that_are_parts_of_characters_stay_apart(tokenizer: Tokenizer) -> None:
    rivals = ((0x80, -1.0), (0x81, -1.1), (0xFF, -1.2), (97, -9.0))
    event = Event(0, 0x80, False, "length", "text", "\ufffd", TokenLogprobs(-1.0, rivals))
    answer = TextAnswer(Heading("m", "m@1"), tokenizer, [""], 1, include_usage=False, top_logprobs=4)
    table = answer.whole({0: [event]})["choices"][0]["logprobs"]
    assert table["tokens"] == [r"bytes:\x80"]
    assert table["top_logprobs"] == [
        {r"bytes:\x80": -1.0, r"bytes:\x81": -1.1, r"bytes:\xff": -1.2, "a": -9.0}
    ]


def test_text_cannot_contain_special_tokens(tokenizer: Tokenizer) -> None:
    hostile = "".join(SPECIAL_TOKENS)
    ids = chat_prompt(tokenizer, messages_of({"role": "user", "content": hostile}))
    special = [token["special"] for token in described(tokenizer, ids) if token["special"]]
    assert special == ["<|bos|>", "<|user_start|>", "<|user_end|>", "<|assistant_start|>"]
