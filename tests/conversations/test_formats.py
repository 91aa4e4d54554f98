"""OpenAI's fine-tuning format and ShareGPT's in ours."""

import json
from pathlib import Path

import pytest

from nanochat.conversations.formats import messages_of
from nanochat.conversations.sources import open_jsonl
from nanochat.tokenizer.chat_format import render
from nanochat.tokenizer.tokenizer import Tokenizer


def user(text="6*7?"):
    return {"role": "user", "content": text}


def assistant(content="42"):
    return {"role": "assistant", "content": content}


def called(arguments, name="python", identity="c1", content=None):
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "content": content, "tool_calls": [{"id": identity, "function": function}]}


def output(text="42", identity="c1"):
    return {"role": "tool", "tool_call_id": identity, "content": text}


def python(code, result):
    return [{"type": "python", "text": code}, {"type": "python_output", "text": result}]


OURS = [user(), assistant([*python("6*7", "42"), {"type": "text", "text": "It is 42."}])]


@pytest.mark.parametrize(
    ("value", "messages"),
    [
        ({"messages": [user(), assistant()]}, [user(), assistant()]),
        ([user(), assistant()], [user(), assistant()]),
        ({"messages": OURS}, OURS),
        (
            {"messages": [{"role": "developer", "content": "Be brief."}, user(), {**assistant(), "weight": 1}]},
            [{"role": "system", "content": "Be brief."}, user(), assistant()],
        ),
        (
            {"messages": [user([{"type": "text", "text": "6*"}, {"type": "text", "text": "7?"}]), assistant()]},
            [user(), assistant()],
        ),
        ({"messages": [user(), called("6*7"), output(), assistant("It is 42.")], "tools": []}, OURS),
        ({"messages": [user(), called('{"code": "6*7"}'), output(), assistant("It is 42.")]}, OURS),
        ({"messages": [user(), called("6*7", "code_interpreter"), output(), assistant("It is 42.")]}, OURS),
        (
            [user(), called("6*7", content="Let me see. "), output(), called("42", identity="c2"),
             output("43", "c2"), assistant("43"), user("Sure?"), assistant("Yes.")],
            [user(), assistant([{"type": "text", "text": "Let me see. "}, *python("6*7", "42"),
                                *python("42", "43"), {"type": "text", "text": "43"}]),
             user("Sure?"), assistant("Yes.")],
        ),
        (
            {"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "6*7?"},
                               {"from": "gpt", "value": "42"}], "id": "x"},
            [{"role": "system", "content": "s"}, user(), assistant()],
        ),
    ],
)  # fmt: skip
def test_formats(value, messages, tokenizer: Tokenizer):
    assert messages_of(value) == messages
    ids, mask = render(tokenizer, {"messages": messages})
    assert 0 < sum(mask) < len(ids)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"text": "x"}, "not a list of messages"),
        (7, "not a list of messages"),
        ([user(), called("{}", "get_weather"), output(), assistant()], "a call of the tool 'get_weather'"),
        ([user(), called('{"city": "Bern"}'), output(), assistant()], "a call of python without code"),
        ([user(), called(" "), output(), assistant()], "a call of python without code"),
        ([user(), called("6*7"), assistant()], "a tool call without its output"),
        ([user(), called("6*7")], "a tool call without its output"),
        ([user(), called("6*7"), output(identity="c2"), assistant()], "no call waits for this output"),
        ([user(), assistant(), output()], "no call waits for this output"),
        ([user(), {**assistant(), "function_call": {}}], "function_call is the form before"),
        ([user(), {**assistant(), "weight": 0}], "a weight other than 1"),
        ([user([{"type": "image_url", "image_url": {"url": "x"}}]), assistant()], "content that is not text"),
        ([user(), {"role": "assistant", "content": None}], "empty message"),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "observation", "value": "b"}]},
         "a turn from 'observation'"),
        ({"conversations": [{"from": "human", "value": "a"}]}, "roles out of turn"),
        ({"conversations": [{"from": ["human"], "value": "a"}]}, "a turn from"),
        ({"conversations": "x"}, "not a list of messages"),
    ],
)  # fmt: skip
def test_what_has_no_tokens_of_ours_is_refused_by_name(value, reason):
    with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        messages_of(value)
    assert reason in str(error.value)


def test_a_file_of_all_formats(tmp_path: Path):
    values = [
        [user("a"), assistant()],
        {"messages": [user("b"), called("6*7"), output(), assistant()]},
        {"conversations": [{"from": "human", "value": "c"}, {"from": "gpt", "value": "d"}]},
        {"messages": [user("d"), called("{}", "search"), output(), assistant()]},
    ]
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(map(json.dumps, values)))
    source = open_jsonl(path, "train")
    assert [chat["messages"][0]["content"] for chat in source.conversations] == ["a", "b"]
    assert "a call of the tool 'search'" in source.complaint()
    assert "(line 4)" in source.complaint()
