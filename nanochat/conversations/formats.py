"""Conversations as others write them, in our chat format: OpenAI's fine-tuning format and ShareGPT's.

    ours      {"messages": [{"role": "user", "content": "6*7?"}, {"role": "assistant", "content": PARTS}]}, or the list
    OpenAI    {"messages": [..., {"role": "assistant", "tool_calls": [...]}, {"role": "tool", "content": "42"}, ...]}
    ShareGPT  {"conversations": [{"from": "human", "value": "6*7?"}, {"from": "gpt", "value": "42"}]}

Our models have one tool, Python: its calls and their outputs become parts of the assistant's reply. A call of any other
tool has no tokens of ours, and the conversation is refused by the tool's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nanochat.conversations.openai_messages import PYTHON_TOOLS, from_openai, tool_names
from nanochat.tokenizer.chat_format import REPLY_PARTS

_SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
}

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
        if not all(isinstance(part, dict) and part.get("type") in REPLY_PARTS for part in content):
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
        if not isinstance(speaker, str) or speaker not in _SHAREGPT_ROLES:
            raise ValueError(f"a turn from {str(speaker)[:40]!r}: use {', '.join(_SHAREGPT_ROLES)}")
        messages.append({"role": _SHAREGPT_ROLES[speaker], "content": turn.get("value")})
    return messages


def _from_openai(messages: object) -> list[_Message]:
    """OpenAI's messages in our format; messages that are in ours already stay as they are."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ValueError("not a list of messages")
    if any(_is_ours(message.get("content")) for message in messages):
        return messages
    for message in messages:
        if message.get("weight", 1) != 1:
            raise ValueError("a weight other than 1: every reply is trained on")
        for name in tool_names(message):
            if name not in PYTHON_TOOLS:
                raise ValueError(
                    f"a call of the tool {name[:40]!r}: a model has no tool but {PYTHON_TOOLS[0]}"
                )
    try:
        converted = from_openai(messages)
    except ValueError as error:  # without the message's number: a file's faults are counted by their reason
        raise ValueError(str(error).partition(": ")[2]) from None
    for message in converted:
        _check_calls(message["content"])
    return converted


def _is_ours(content: object) -> bool:
    return isinstance(content, list) and any(
        isinstance(part, dict) and part.get("type") in ("python", "python_output") for part in content
    )


def _check_calls(content: str | list[dict[str, str]]) -> None:
    parts = [] if isinstance(content, str) else content
    calls = [part["text"] for part in parts if part["type"] == "python"]
    if not all(code.strip() for code in calls):
        raise ValueError("a call of python without code")
    if len(calls) != sum(part["type"] == "python_output" for part in parts):
        raise ValueError("a tool call without its output")
