"""What clients send: the bodies of requests as dataclasses, decoded with a fault that names the field."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from nanochat.config import from_json
from nanochat.serve.faults import invalid

B = TypeVar("B")


@dataclass(frozen=True)
class StreamOptions:
    """Options of a streamed answer."""

    include_usage: bool = False


@dataclass(frozen=True)
class ContentPart:
    """A part of a message. Only text parts are accepted."""

    type: str
    text: str | None = None


@dataclass(frozen=True)
class ExecutedTool:
    """A tool call that this server ran in an earlier answer."""

    type: Literal["python"]
    arguments: str
    output: str | None = None
    offset: int = 0
    """How many characters of the content precede the call."""


@dataclass(frozen=True)
class CalledFunction:
    """The function of a tool call."""

    name: str = ""
    arguments: str = ""


@dataclass(frozen=True)
class ToolCall:
    """A tool call of another server's answer, kept in the history."""

    id: str | None = None
    function: CalledFunction = field(default_factory=CalledFunction)


@dataclass(frozen=True)
class ChatMessage:
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    """Of a tool's message: the call that it answers."""
    executed_tools: list[ExecutedTool] | None = None


@dataclass(frozen=True, kw_only=True)
class SamplingBody:
    """How to sample; None: the server's default."""

    model: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    """0 and -1 mean no limit."""
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    max_tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class AnswerBody(SamplingBody):
    """What chat and text completions share."""

    max_completion_tokens: int | None = None
    """The newer name of `max_tokens`; it takes precedence."""
    stop: str | list[str] | None = None
    n: int = 1
    stream: bool = False
    stream_options: StreamOptions = field(default_factory=StreamOptions)
    logit_bias: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ChatBody(AnswerBody):
    """`POST /v1/chat/completions`."""

    messages: list[ChatMessage]
    logprobs: bool = False
    top_logprobs: int | None = None
    tool_choice: str | dict[str, Any] = "auto"
    response_format: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TextBody(AnswerBody):
    """`POST /v1/completions`."""

    prompt: str | list[int] | list[str] | list[list[int]]
    logprobs: int | None = None
    echo: bool = False


@dataclass(frozen=True, kw_only=True)
class TokenizeBody:
    """`POST /tokenize`: a text, or the prompt of a chat."""

    model: str | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    add_special_tokens: bool = True


@dataclass(frozen=True, kw_only=True)
class GenerateBody(SamplingBody):
    """`POST /api/generate`: one answer, token by token. One of messages, text and ids."""

    messages: list[ChatMessage] | None = None
    text: str | None = None
    ids: list[int] | None = None
    reply_ids: list[int] = field(default_factory=list)
    top_logprobs: int = 5


@dataclass(frozen=True, kw_only=True)
class NextBody:
    """`POST /api/next`: the distribution of the token after some others."""

    model: str | None = None
    ids: list[int]
    top: int = 50


@dataclass(frozen=True, kw_only=True)
class ScoreBody:
    """`POST /api/score`: how surprising each token of a text is."""

    model: str | None = None
    text: str


@dataclass(frozen=True, kw_only=True)
class TokensBody:
    """`POST /api/tokens`: the token stream of a conversation or a text."""

    model: str | None = None
    messages: list[ChatMessage] | None = None
    text: str | None = None


_FIELD = re.compile(r"\.([\w.\[\]]+): ")


def decode(kind: type[B], body: Mapping[str, Any]) -> B:
    """The body as `kind`. Unknown fields are ignored; null means that a field is not given, at any depth.

    Raises ApiFault naming the field for a missing one and for a wrong type.
    """
    try:
        return from_json(kind, _given(body), ignore_unknown=True)
    except ValueError as error:
        message = str(error)
    missing = message.removeprefix(f"{kind.__name__}: missing ")
    if missing != message:
        raise invalid(f"missing {missing}", param=missing.split(", ")[0], code="missing_required_parameter")
    found = _FIELD.search(message)
    raise invalid(
        message.replace(f"{kind.__name__}.", ""), param=found[1] if found else None, code="invalid_type"
    )


def _given(value: Any) -> Any:
    """A JSON value without the fields that are null."""
    if isinstance(value, dict):
        return {name: _given(inner) for name, inner in value.items() if inner is not None}
    return [_given(item) for item in value] if isinstance(value, list) else value
