"""OpenAI's and TRL's messages become ours, their tool calls the parts of our answers."""

from typing import Any

import pytest

from nanochat.conversations.openai_messages import from_openai
from nanochat.tokenizer.chat_format import render
from nanochat.tokenizer.tokenizer import Tokenizer


def part(kind: str, text: str) -> dict[str, str]:
    return {"type": kind, "text": text}


def test_the_example_of_the_module() -> None:
    messages = [
        {"role": "user", "content": "?"},
        {
            "role": "assistant",
            "content": "So:",
            "tool_calls": [call("python", '{"code": "47*36"}', "call_0")],
        },
        {"role": "tool", "tool_call_id": "call_0", "content": "1692"},
        {"role": "assistant", "content": "It is 1692."},
    ]
    answer = [
        part("text", "So:"),
        part("python", "47*36"),
        part("python_output", "1692"),
        part("text", "It is 1692."),
    ]
    assert from_openai(messages) == [messages[0], {"role": "assistant", "content": answer}]


@pytest.mark.parametrize("contents", [["x"], ["", "x"], [None, "x"]])
def test_a_reply_of_one_text_is_a_string(contents: list[str | None]) -> None:
    ours = from_openai([{"role": "assistant", "content": content} for content in contents])
    assert ours == [{"role": "assistant", "content": "x"}]


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
