"""The OpenAI-compatible endpoints over real HTTP: shapes, streams, samples, errors."""

from __future__ import annotations

import json

import pytest

from tests.serve.conftest import BASE, CHAT, CONTEXT, Running

GREEDY = {"temperature": 0, "max_tokens": 12}


def content(answer: dict, index: int = 0) -> str:
    return answer["choices"][index]["message"]["content"]


def test_an_answer_has_openais_shape(server: Running) -> None:
    answer = server.chat(**GREEDY).json
    assert list(answer) == ["id", "object", "created", "model", "system_fingerprint", "choices", "usage"]
    assert (answer["object"], answer["model"]) == ("chat.completion", CHAT)
    (choice,) = answer["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] == "length"
    prompt = len(server.post("/tokenize", messages=[{"role": "user", "content": "hi"}]).json["tokens"])
    assert answer["usage"] == {
        "prompt_tokens": prompt,
        "completion_tokens": 12,
        "total_tokens": prompt + 12,
    }


def test_a_short_answer_is_one_write(server: Running) -> None:
    with server.open_stream(stream=True, max_tokens=1) as connection:
        received = connection.recv(65536)
    assert received.startswith(b"HTTP/1.1 200 OK")
    assert received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


@pytest.mark.parametrize("include_usage", [False, True])
def test_a_stream_is_the_answer_in_chunks(server: Running, include_usage: bool) -> None:
    whole = server.chat(n=2, seed=7, max_tokens=20).json
    options = {"stream_options": {"include_usage": True}} if include_usage else {}
    streamed = server.chat(n=2, seed=7, max_tokens=20, stream=True, **options)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    events = streamed.events
    assert len({(event["id"], event["model"], event["created"]) for event in events}) == 1
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    if include_usage:
        *events, last = events
        assert last["choices"] == []
        assert last["usage"] == whole["usage"]
        assert all(event["usage"] is None for event in events)
    else:
        assert all("usage" not in event for event in events)
    for index in (0, 1):
        choices = [event["choices"][0] for event in events if event["choices"][0]["index"] == index]
        assert choices[0]["delta"] == {"role": "assistant", "content": ""}
        assert all("role" not in choice["delta"] for choice in choices[1:])
        assert (choices[-1]["delta"], choices[-1]["finish_reason"]) == ({}, "length")
        assert all(choice["finish_reason"] is None for choice in choices[:-1])
        assert "".join(c["delta"].get("content", "") for c in choices) == content(whole, index)


def test_a_seed_repeats_and_the_samples_differ(server: Running) -> None:
    first, second = (server.chat(n=3, seed=1, temperature=1.5, max_tokens=20).json for _ in range(2))
    texts = [content(first, index) for index in range(3)]
    assert texts == [content(second, index) for index in range(3)]
    assert len(set(texts)) == 3
    assert content(server.chat(seed=1, temperature=1.5, max_tokens=20).json) == texts[0]


def test_logprobs_cover_the_content(server: Running) -> None:
    answer = server.chat(**GREEDY, logprobs=True, top_logprobs=3).json
    entries = answer["choices"][0]["logprobs"]["content"]
    raw = b"".join(bytes(entry["bytes"]) for entry in entries)
    assert raw.decode(errors="replace") == content(answer)
    for entry in entries:
        assert entry["logprob"] <= 0
        assert len(entry["top_logprobs"]) == 3
        assert entry["top_logprobs"][0]["logprob"] == entry["logprob"]  # greedy


def test_stop_strings_end_the_answer_before_them(server: Running) -> None:
    long = content(server.chat(temperature=0, max_tokens=40).json)
    stop = long[10:13]
    for given in (stop, ["never there", stop]):
        answer = server.chat(temperature=0, max_tokens=40, stop=given).json
        assert content(answer) == long[: long.index(stop)]
        assert answer["choices"][0]["finish_reason"] == "stop"


def test_the_last_assistant_message_is_continued(server: Running) -> None:
    user = {"role": "user", "content": "hi"}
    whole = server.post("/v1/chat/completions", messages=[user], temperature=0, max_tokens=20, logit_bias={})
    ids = server.post("/tokenize", messages=[user]).json["tokens"]
    begun = "abc"
    continued = server.post(
        "/v1/chat/completions",
        messages=[user, {"role": "assistant", "content": begun}],
        temperature=0,
        max_tokens=20,
    ).json
    by_ids = server.post("/v1/completions", prompt=[*ids, *begun.encode()], temperature=0, max_tokens=20).json
    assert content(continued) == by_ids["choices"][0]["text"] != content(whole.json)


def test_what_real_clients_send_is_accepted(server: Running) -> None:
    answered = server.post(
        "/v1/chat/completions",
        model=CHAT,
        messages=[
            {"role": "developer", "content": "be brief", "name": "dev"},
            {"role": "system", "content": [{"type": "text", "text": "or not"}]},
            {"role": "user", "content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "tool", "content": "7", "tool_call_id": "a"},
            {"role": "user", "content": "more"},
            {"role": "user", "content": "and more"},
        ],
        max_completion_tokens=3,
        max_tokens=100,
        tools=[{"type": "function", "function": {"name": "f"}}],
        tool_choice="auto",
        response_format={"type": "text"},
        stop=None,
        stream_options={"include_usage": None},
        user="me",
        unheard_of={"deep": [1, 2, 3]},
        frequency_penalty=0.5,
        top_k=-1,
        min_p=0.1,
    )
    assert answered.status == 200
    assert answered.json["usage"]["completion_tokens"] == 3


def test_text_completions(server: Running) -> None:
    answer = server.post(
        "/v1/completions", model=BASE, prompt=["ab", "cd"], n=2, max_tokens=5, seed=3, logprobs=2
    ).json
    assert answer["object"] == "text_completion"
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    for choice in answer["choices"]:
        table = choice["logprobs"]
        assert len(table["tokens"]) == len(table["token_logprobs"]) == len(table["top_logprobs"]) == 5
    echoed = server.post("/v1/completions", model=BASE, prompt="ab", n=1, max_tokens=5, seed=3, echo=True)
    assert echoed.json["choices"][0]["text"] == "ab" + answer["choices"][0]["text"]
    streamed = server.post("/v1/completions", model=BASE, prompt="ab", max_tokens=5, seed=3, stream=True)
    assert "".join(e["choices"][0]["text"] for e in streamed.events) == answer["choices"][0]["text"]


def test_models_are_listed_and_named(server: Running) -> None:
    listed = {card["id"]: card for card in server.ask("GET", "/v1/models").json["data"]}
    assert set(listed) == {CHAT, BASE}
    assert listed[CHAT]["nanochat"]["kind"] == "chat"
    assert listed[BASE]["nanochat"]["kind"] == "base"
    assert listed[CHAT]["nanochat"]["steps"] == [1, 2]
    assert server.ask("GET", f"/v1/models/{CHAT}").json["id"] == CHAT
    assert server.ask("GET", f"/v1/models/{CHAT}@1").json["nanochat"]["step"] == 1
    newest, old = (content(server.chat(model=f"{CHAT}@{step}", **GREEDY).json) for step in (2, 1))
    assert newest == content(server.chat(**GREEDY).json) != old


MISTAKES = [
    ({"messages": 3}, "messages", "invalid_type"),
    ({"messages": []}, "messages", None),
    ({}, "messages", "missing_required_parameter"),
    ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role", "invalid_type"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, "messages[0]", None),
    ({"messages": [{"role": "user"}]}, "messages[0].content", None),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content",
        None,
    ),
    ({"temperature": "hot"}, "temperature", "invalid_type"),
    ({"temperature": -1}, "temperature", None),
    ({"temperature": float("nan")}, "temperature", None),
    ({"top_p": 0}, "top_p", None),
    ({"min_p": 2}, "min_p", None),
    ({"top_k": -5}, "top_k", None),
    ({"n": 0}, "n", None),
    ({"n": 1000}, "n", None),
    ({"n": True}, "n", "invalid_type"),
    ({"max_tokens": 0}, "max_tokens", None),
    ({"max_completion_tokens": 0}, "max_completion_tokens", None),
    ({"seed": 2**70}, "seed", None),
    ({"stop": ""}, "stop", None),
    ({"stop": ["x", ""]}, "stop", None),
    ({"stop": ["x"] * 50}, "stop", None),
    ({"stop": 7}, "stop", "invalid_type"),
    ({"top_logprobs": 21}, "top_logprobs", None),
    ({"logit_bias": {"x": 1}}, "logit_bias", None),
    ({"logit_bias": {"99999": 1}}, "logit_bias", None),
    ({"tool_choice": "required"}, "tool_choice", None),
    ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice", None),
    ({"response_format": {"type": "json_object"}}, "response_format", None),
    ({"stream_options": 1, "stream": True}, "stream_options", "invalid_type"),
    ({"model": "nope"}, "model", "model_not_found"),
    ({"model": f"{CHAT}@77"}, "model", "model_not_found"),
    ({"model": "../" + CHAT}, "model", "model_not_found"),
    ({"model": BASE}, "model", None),
    ({"messages": [{"role": "user", "content": "x" * CONTEXT}]}, "messages", "context_length_exceeded"),
    ({"messages": [{"role": "user", "content": "x"}] * 600}, "messages", None),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("fields", "param", "code"), MISTAKES, ids=lambda value: str(value)[:40])
def test_a_mistake_gets_an_error_that_names_the_field(
    server: Running, fields: dict, param: str, code: str | None, stream: bool
) -> None:
    usual = {} if "messages" in fields or not fields else {"messages": [{"role": "user", "content": "x"}]}
    answered = server.post("/v1/chat/completions", **{**usual, **fields, "stream": stream})
    error = answered.error
    assert answered.status == (404 if code == "model_not_found" else 400)
    assert (error["param"], error["code"]) == (param, code)
    assert error["type"] == "invalid_request_error"


@pytest.mark.slow
def test_every_chunk_and_answer_matches_the_schema(server: Running) -> None:
    """OpenAI's own types, strictly: they refuse a wrong type and a missing field."""
    types = pytest.importorskip("openai.types.chat", reason="the openai package (dependency group clients)")
    completion = pytest.importorskip("openai.types").Completion
    fields = {"n": 2, "max_tokens": 6, "logprobs": True, "top_logprobs": 2, "seed": 1}
    types.ChatCompletion.model_validate_json(server.chat(**fields).body, strict=True)
    for event in server.chat(**fields, stream=True, stream_options={"include_usage": True}).events:
        types.ChatCompletionChunk.model_validate_json(json.dumps(event), strict=True)
    text = server.post("/v1/completions", prompt="x", max_tokens=3, logprobs=2)
    completion.model_validate_json(text.body, strict=True)
