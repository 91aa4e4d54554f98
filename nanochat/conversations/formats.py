"""Conversations as others write them, in our chat format: OpenAI's fine-tuning format and ShareGPT's.

    ours      {"messages": [{"role": "user", "content": "6*7?"}, {"role": "assistant", "content": PARTS}]}, or the list
    OpenAI    {"messages": [..., {"role": "assistant", "tool_calls": [...]}, {"role": "tool", "content": "42"}, ...]}
    ShareGPT  {"conversations": [{"from": "human", "value": "6*7?"}, {"from": "gpt", "value": "42"}]}

Our models have one tool, Python: its calls and their outputs become parts of the assistant's reply. A call of any other
tool has no tokens of ours, and the conversation is refused by the tool's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nanochat.config import parse_json

PYTHON_TOOLS = ("python", "code_interpreter")
"""Names under which others call Python."""

_SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
}
_PART_TYPES = ("text", "python", "python_output")

_Message = dict[str, Any]


def messages_of(value: object) -> list[_Message]:
    """The messages of a conversation in any of the formats, in ours. Raises ValueError with the reason if it is none.

    They are an optional system message, then user and assistant in turn, the assistant last, none empty.
    """
    if isinstance(value, Mapping) and "conversations" in value:
        messages = _from_sharegpt(value["conversations"])
    else:
        messages = _from_openai(value.get("messages") if isinstance(value, Mapping) else value)
    if reason := fault(messages):
        raise ValueError(reason)
    return messages


def fault(messages: object) -> str | None:
    """Why these messages are not a usable conversation in our format; None if they are."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return "not a list of messages"
    roles = [message.get("role") for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if not turns or turns != ["user", "assistant"] * (len(turns) // 2):
        return "roles out of turn"
    texts = [_all_text(message) for message in messages]
    if None in texts:
        return "content that is not text"
    return None if all(text and text.strip() for text in texts) else "empty message"


def _all_text(message: _Message) -> str | None:
    """All the text of a message; None if it does not follow the chat format."""
    content = message.get("content")
    if isinstance(content, list) and message["role"] == "assistant":
        if not all(isinstance(part, dict) and part.get("type") in _PART_TYPES for part in content):
            return None
        texts = [part.get("text") for part in content]
        return "".join(texts) if all(isinstance(text, str) for text in texts) else None
    return content if isinstance(content, str) else None


def _from_sharegpt(turns: object) -> list[_Message]:
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError("not a list of messages")
    messages = []
    for turn in turns:
        speaker = turn.get("from")
        if speaker not in _SHAREGPT_ROLES:
            raise ValueError(f"a turn from {str(speaker)[:40]!r}: use {', '.join(_SHAREGPT_ROLES)}")
        messages.append({"role": _SHAREGPT_ROLES[speaker], "content": turn.get("value")})
    return messages


def _from_openai(messages: object) -> list[_Message]:
    """OpenAI's messages in our format; messages that are in ours already stay as they are."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ValueError("not a list of messages")
    result: list[_Message] = []
    at = 0
    while at < len(messages):
        message = messages[at]
        role = message.get("role")
        if role == "assistant":
            end = at + 1
            while end < len(messages) and _continues_a_reply(messages[end - 1], messages[end]):
                end += 1
            result.append({"role": role, "content": _reply(messages[at:end])})
            at = end
            continue
        content = _plain(message.get("content")) if role in ("user", "system", "developer") else None
        result.append({"role": "system" if role == "developer" else role, "content": content})
        at += 1
    return result


def _continues_a_reply(before: _Message, message: _Message) -> bool:
    """Whether a message is a tool's output, or what the assistant writes after one."""
    role = message.get("role")
    return role == "tool" or (role == "assistant" and before.get("role") == "tool")


def _reply(messages: Sequence[_Message]) -> Any:
    """The content of one reply, from the assistant's messages and the outputs of the tools that it called."""
    first = messages[0]
    if "function_call" in first:
        raise ValueError("a function_call, OpenAI's older format: write tool_calls")
    if any("weight" in message and message["weight"] != 1 for message in messages):
        raise ValueError("a weight other than 1: every reply is trained on")
    if len(messages) == 1 and not first.get("tool_calls"):
        content = first.get("content")
        return content if _is_ours(content) else _plain(content)
    parts: list[dict[str, str]] = []
    outputs = {
        message.get("tool_call_id"): _plain(message.get("content"))
        for message in messages
        if message["role"] == "tool"
    }
    for message in messages:
        if message["role"] == "tool":
            continue
        if text := _plain(message.get("content")):
            parts.append({"type": "text", "text": text})
        for call in message.get("tool_calls") or []:
            identity, code = _python_call(call)
            if not isinstance(outputs.get(identity), str):
                raise ValueError("a tool call without its output")
            parts.append({"type": "python", "text": code})
            parts.append({"type": "python_output", "text": outputs.pop(identity)})
    if outputs:
        raise ValueError("a tool's output without its call")
    return parts


def _python_call(call: object) -> tuple[str | None, str]:
    """The id and the code of a tool call: its arguments, as code or as `{"code": "..."}`."""
    function = call.get("function") if isinstance(call, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if name not in PYTHON_TOOLS:
        raise ValueError(
            f"a call of the tool {str(name)[:40]!r}: a model has no tool but {' or '.join(PYTHON_TOOLS)}"
        )
    assert isinstance(call, dict)
    assert isinstance(function, dict)
    arguments = function.get("arguments")
    if not isinstance(arguments, str) or not arguments.strip():
        raise ValueError("a call of python without code")
    try:
        value = parse_json(arguments)
    except ValueError:
        return call.get("id"), arguments
    if not isinstance(value, dict):
        return call.get("id"), arguments  # code such as 42
    if not isinstance(value.get("code"), str):
        raise ValueError('a call of python without code: its arguments are code or {"code": "..."}')
    return call.get("id"), value["code"]


def _is_ours(content: object) -> bool:
    return isinstance(content, list) and any(
        isinstance(part, dict) and part.get("type") in ("python", "python_output") for part in content
    )


def _plain(content: object) -> Any:
    """The text of a content, which OpenAI allows to come in parts; None for none."""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            raise ValueError("content that is not text")
        texts.append(part.get("text"))
    return "".join(texts) if all(isinstance(text, str) for text in texts) else None
