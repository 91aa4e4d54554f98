"""Conversations varied by an endpoint whose answers are written here; tests/serve has our own server's."""

import json
from random import Random

import httpx
import pytest

from nanochat.errors import EnvironmentFault
from nanochat.hub.retry import RetryPolicy
from nanochat.persona import endpoint
from nanochat.persona.conversations import draw
from nanochat.persona.endpoint import Endpoint, vary
from nanochat.persona.persona import OURS, load_persona
from nanochat.persona.topics import TOPICS

PERSONA = load_persona(OURS)
DRAWN = [draw(Random(str(index)), PERSONA) for index in range(20)]
ENDPOINT = Endpoint("http://endpoint/v1/", "any", "secret")


def answering(question: str, reply: str) -> httpx.MockTransport:
    """An endpoint that writes this question and this reply, and checks what it is asked."""

    def answer(request: httpx.Request) -> httpx.Response:
        assert (request.url.path, request.headers["authorization"]) == (
            "/v1/chat/completions",
            "Bearer secret",
        )
        messages = json.loads(request.content)["messages"]
        roles = [message["role"] for message in messages]
        asked_to_reword = len(messages) == 1
        assert asked_to_reword or roles == ["system", "user"]
        assert asked_to_reword or PERSONA.maker in messages[0]["content"]
        content = question if asked_to_reword else reply
        return httpx.Response(200, json={"choices": [{"message": {"role": "assistant", "content": content}}]})

    return httpx.MockTransport(answer)


def test_usable_texts_replace_the_offline_ones_in_order() -> None:
    reply = "nanochat, which the nanochat authors made, is me."
    made = vary(DRAWN, PERSONA, ENDPOINT, answering('"Now who would you be?"\n', f" {reply}\n"))
    assert (
        made.kept
        == made.written
        == 2 * sum(asked is not None for turns in DRAWN for _, _, asked in turns)
        > 20
    )
    for before, after in zip(DRAWN, made.conversations, strict=True):
        for old, new in zip(before, after, strict=True):
            assert new == (old if old[2] is None else ("Now who would you be?", reply, old[2]))


@pytest.mark.parametrize(
    ("question", "reply"),
    [
        ("", ""),
        ("Well: tell me WHO made you!", "I am ChatGPT, made by OpenAI."),
        ("one\ntwo", "I am nanochat.\nI was made by the nanochat authors."),
        ("x" * 301, "nanochat, the nanochat authors " * 20),
        ("\x00", "nanochat the nanochat authors\x1b[2J"),
    ],
)
def test_unusable_texts_leave_the_offline_ones(question: str, reply: str) -> None:
    keyed = [[turn for turn in turns if turn[2] and turn[2].topic.key] for turns in DRAWN]
    made = vary(keyed, PERSONA, ENDPOINT, answering(question, reply))
    assert made.conversations == keyed
    assert made.kept == 0


def test_a_busy_endpoint_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "_PATIENCE", RetryPolicy(attempts=3, first_pause_s=0.0))
    willing, busy = answering("Who would you be?", ""), iter((429, 503))

    def answer(request: httpx.Request) -> httpx.Response:
        status = next(busy, 200)
        return willing.handle_request(request) if status == 200 else httpx.Response(status, request=request)

    made = vary(DRAWN[:4], PERSONA, ENDPOINT, httpx.MockTransport(answer))
    assert next(busy, None) is None
    assert 0 < made.kept < made.written
    with pytest.raises(EnvironmentFault, match=r"HTTP 503 [^\n]* 3 times in a row"):
        vary(DRAWN[:4], PERSONA, ENDPOINT, httpx.MockTransport(lambda _: httpx.Response(503)))


def test_a_topic_without_a_key_needs_no_name() -> None:
    [free, *_] = [[turn] for turns in DRAWN for turn in turns if turn[2] and turn[2].topic.key is None]
    made = vary([free], PERSONA, ENDPOINT, answering("", "Very brief."))
    assert [reply for _, reply, _ in made.conversations[0]] == ["Very brief."]
    assert any(topic.key is None for topic in TOPICS)


@pytest.mark.parametrize(
    ("response", "line"),
    [
        (httpx.Response(404, text="no such\nmodel"), "answers 404: no such model"),
        (httpx.Response(200, text="<html>"), "does not answer as an OpenAI-compatible endpoint does"),
        (httpx.Response(200, json={"choices": []}), "does not answer as an OpenAI-compatible endpoint does"),
    ],
)
def test_an_endpoint_that_fails_is_one_clear_line(response: httpx.Response, line: str) -> None:
    with pytest.raises(EnvironmentFault, match=r"^http://endpoint/v1/chat/completions [^\n]*$") as fault:
        vary(DRAWN, PERSONA, ENDPOINT, httpx.MockTransport(lambda request: response))
    assert line in str(fault.value)
