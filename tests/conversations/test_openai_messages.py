"""Tool calls survive the way to OpenAI's and TRL's messages and back."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.conversations.openai_messages import Style, from_openai, to_openai
from nanochat.tokenizer.chat_format import render
from nanochat.tokenizer.tokenizer import Tokenizer

TEXTS = st.text(max_size=8)
SAID = st.text(min_size=1, max_size=8)


def part(kind: str, text: str) -> dict[str, str]:
    return {"type": kind, "text": text}


CALLS = st.one_of(
    st.tuples(TEXTS).map(lambda t: [part("python", t[0])]),
    st.tuples(TEXTS, TEXTS).map(lambda t: [part("python", t[0]), part("python_output", t[1])]),
)
PARTS = st.lists(st.one_of(SAID.map(lambda t: [part("text", t)]), CALLS), min_size=1, max_size=4).map(
    lambda pieces: [one for piece in pieces for one in piece]
)
ANSWERS = st.one_of(TEXTS, PARTS.filter(lambda parts: len(parts) > 1 or parts[0]["type"] != "text"))


@st.composite
def chats(draw: st.DrawFn) -> list[dict[str, Any]]:
    messages = [{"role": "system", "content": draw(TEXTS)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(TEXTS)})
        messages.append({"role": "assistant", "content": draw(ANSWERS)})
    return messages


@pytest.mark.slow
@settings(max_examples=60)
@given(messages=chats(), style=st.sampled_from(["openai", "trl"]))
def test_ours_come_back(messages: list[dict[str, Any]], style: Style) -> None:
    there = to_openai(messages, style)
    assert from_openai(there) == messages
    assert to_openai(from_openai(there), style) == there
    for message in there:
        assert isinstance(message["content"], str)
        for call in message.get("tool_calls", ()):
            assert isinstance(call["function"]["arguments"], str if style == "openai" else dict)


def test_the_example_of_the_module() -> None:
    answer = [
        part("text", "So:"),
        part("python", "47*36"),
        part("python_output", "1692"),
        part("text", "It is 1692."),
    ]
    assert to_openai([{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]) == [
        {"role": "user", "content": "?"},
        {
            "role": "assistant",
            "content": "So:",
            "tool_calls": [
                {
                    "id": "call_0",
                    "type": "function",
                    "function": {"name": "python", "arguments": '{"code": "47*36"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_0", "content": "1692"},
        {"role": "assistant", "content": "It is 1692."},
    ]


def call(name: str, arguments: Any, identity: str | None = None) -> dict[str, Any]:
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}


def test_parallel_calls_get_their_own_outputs(tokenizer: Tokenizer) -> None:
    calls = [call("python", '{"code": "1+1"}', "a"), call("weather", '{"city": "Köln", "days": 2}', "b")]
    ours = from_openai(
        [
            {
                "role": "developer",
                "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}],
            },
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "tool_call_id": "b", "content": "rain"},
            {"role": "tool", "tool_call_id": "a", "content": "2"},
            {"role": "assistant", "content": "2, rain"},
        ]
    )
    assert ours[0] == {"role": "system", "content": "Be brief."}
    assert ours[2]["content"] == [
        part("python", "1+1"),
        part("python_output", "2"),
        part("python", "weather(city='Köln', days=2)"),
        part("python_output", "rain"),
        part("text", "2, rain"),
    ]
    render(tokenizer, {"messages": ours})


@pytest.mark.parametrize("arguments", ["1+1", {"code": "1+1"}, '{"code": "1+1"}'])
def test_code_is_read_as_models_write_it(arguments: Any) -> None:
    ours = from_openai([{"role": "assistant", "tool_calls": [call("python", arguments)]}])
    assert ours[0]["content"] == [part("python", "1+1")]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"role": "tool", "content": "2"}, "no call waits"),
        ({"role": "function", "content": "2"}, "role is 'function'"),
        ({"role": ["user"], "content": "2"}, r"role is \['user'\]"),
        ({"role": {}, "content": "2"}, "role is {}"),
        ({"role": "assistant", "content": None, "function_call": {"name": "x"}}, "rewrite it"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, "not text"),
        ({"role": "assistant", "tool_calls": [{"id": "a"}]}, "no function"),
        ({"role": "assistant", "tool_calls": [call("get weather", {})]}, "not names"),
        ({"role": "assistant", "tool_calls": [call("weather", "Köln")]}, "not an object"),
        ({"role": "assistant", "tool_calls": "x"}, "not a list"),
    ],
)
def test_what_has_no_counterpart_is_refused(message: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"message 1: .*{said}"):
        from_openai([{"role": "user", "content": "?"}, message])


ORPHAN = [part("python", "1"), part("text", "x"), part("python_output", "1")]


@pytest.mark.parametrize("content", [[part("python_output", "2")], ORPHAN, [part("image", "")], 7])
def test_ours_that_have_no_counterpart_are_refused(content: Any) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        to_openai([{"role": "user", "content": "?"}, {"role": "assistant", "content": content}])
