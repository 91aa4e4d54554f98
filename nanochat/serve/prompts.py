"""From the messages or texts of a request to the tokens of a prompt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from nanochat.config import to_json
from nanochat.conversations.openai_messages import Reply
from nanochat.infer.tools import DEFAULT_TOOLS, ToolUse
from nanochat.serve.faults import ApiFault, invalid
from nanochat.serve.openai_schema import ChatMessage, ExecutedTool
from nanochat.tokenizer.chat_format import render, render_prompt
from nanochat.tokenizer.special import (
    ASSISTANT_START,
    OUTPUT_END,
    OUTPUT_START,
    PYTHON_END,
    PYTHON_START,
    USER_END,
    USER_START,
)
from nanochat.tokenizer.tokenizer import Tokenizer

T = TypeVar("T")

_QUICK_CHARACTERS = 20_000
"""Longer texts are tokenised in a thread, so that other requests do not wait."""

# The role of the tokens after a special token; what it does not name leaves a turn.
_ROLE_AFTER = {
    USER_START: "user",
    ASSISTANT_START: "assistant",
    PYTHON_START: "python",
    PYTHON_END: "assistant",
    OUTPUT_START: "output",
    OUTPUT_END: "assistant",
}
_CLOSING = {USER_END, PYTHON_END, OUTPUT_END}
"""These belong to the part that they end."""


@dataclass(frozen=True)
class TokenStream:
    """Ids and, for each, whether training supervises it."""

    ids: list[int]
    mask: list[int]


def conversation(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """The messages in the chat format: an optional system message, then user and assistant in turns.

    System and developer messages at the start become the system message, later ones part of the user's message.
    Messages of one role in succession are joined. Calls of tools and their outputs are read as fine-tuning reads them.
    Raises ApiFault for anything else.
    """
    system: list[str] = []
    turns: list[dict[str, Any]] = []
    reply = Reply()
    for at, message in enumerate(messages):
        where = f"messages[{at}]"
        text = _text_of(message, where)
        if message.role in ("system", "developer") and not turns:
            system.append(text)
        elif message.role in ("system", "developer", "user"):
            if turns and turns[-1]["role"] == "user":
                turns[-1]["content"] += f"\n\n{text}"
            else:
                turns.append({"role": "user", "content": text})
        elif not turns:
            raise invalid(f"{where}: a conversation starts with a user message", param=where)
        else:
            if turns[-1]["role"] == "user":
                reply = Reply()
                turns.append({"role": "assistant"})
            _add_to(reply, message, text, where)
            turns[-1]["content"] = reply.content()
    if not turns:
        raise invalid("messages needs at least one user message", param="messages")
    start = [{"role": "system", "content": "\n\n".join(system)}] if system else []
    return [*start, *turns]


def _text_of(message: ChatMessage, where: str) -> str:
    content = message.content
    if content is None:
        if message.role != "assistant":
            raise invalid(f"{where}.content: missing", param=f"{where}.content")
        return ""
    if isinstance(content, str):
        return content
    for part in content:
        if part.type != "text" or part.text is None:
            raise invalid(
                f"{where}.content: this model reads text only, not parts of the type {part.type[:40]!r}",
                param=f"{where}.content",
            )
    return "".join(part.text or "" for part in content)


def _add_to(reply: Reply, message: ChatMessage, text: str, where: str) -> None:
    """Add an assistant's message, or a tool's."""
    try:
        if message.role == "tool":
            reply.settle(text, message.tool_call_id)
        else:
            parts = _reply_parts(text, message.executed_tools or [])
            reply.speak(parts, to_json(message.tool_calls or []))
    except ValueError as error:
        raise invalid(f"{where}: {error}", param=where) from None


def _reply_parts(text: str, tools: Sequence[ExecutedTool]) -> list[dict[str, str]]:
    """An answer with the tool calls where they were made. A call without an output was cut off, and is left out."""
    parts: list[dict[str, str]] = []
    done = 0
    ran = [tool for tool in tools if tool.output is not None]
    for tool in sorted(ran, key=lambda tool: tool.offset):
        offset = min(max(tool.offset, done), len(text))
        parts.append({"type": "text", "text": text[done:offset]})
        parts.append({"type": "python", "text": tool.arguments})
        parts.append({"type": "python_output", "text": tool.output or ""})
        done = offset
    return [*parts, {"type": "text", "text": text[done:]}]


def chat_prompt(tokenizer: Tokenizer, messages: Sequence[ChatMessage]) -> list[int]:
    """The prompt of a chat. If its last message is the assistant's, the answer continues that message."""
    turns = conversation(messages)
    if turns[-1]["role"] == "user":
        return render_prompt(tokenizer, turns)
    ids, _ = render(tokenizer, {"messages": turns})
    return ids[:-1]  # without <|assistant_end|>


def chat_stream(tokenizer: Tokenizer, messages: Sequence[ChatMessage]) -> TokenStream:
    """A whole conversation as fine-tuning sees it."""
    return TokenStream(*render(tokenizer, {"messages": conversation(messages)}))


def text_stream(tokenizer: Tokenizer, text: str) -> TokenStream:
    """A document as pretraining sees it: every token but the first is predicted."""
    ids = [tokenizer.bos, *tokenizer.encode(text)]
    return TokenStream(ids, [0, *[1] * (len(ids) - 1)])


async def tokenised(characters: int, function: Callable[[], T]) -> T:
    """The result of a function that tokenises a text of this many characters."""
    return function() if characters <= _QUICK_CHARACTERS else await asyncio.to_thread(function)


def characters_of(messages: Sequence[ChatMessage]) -> int:
    """How many characters the messages have."""
    contents = (
        [part.text or "" for part in message.content]
        if isinstance(message.content, list)
        else [message.content or ""]
        for message in messages
    )
    return sum(len(text) for texts in contents for text in texts)


def check_ids(ids: Sequence[int], tokenizer: Tokenizer, param: str) -> None:
    """Raise ApiFault unless all ids are in the vocabulary."""
    if not all(0 <= token < tokenizer.vocab_size for token in ids):
        raise invalid(f"{param}: the model's ids are 0 to {tokenizer.vocab_size - 1}", param=param)


def check_given(ids: Sequence[int], tokenizer: Tokenizer) -> None:
    """Raise ApiFault unless the `ids` of a request are some of the vocabulary's."""
    if not ids:
        raise invalid("ids is empty", param="ids")
    check_ids(ids, tokenizer, "ids")


def too_long(tokens: int, context: int, param: str) -> ApiFault:
    """The fault for a prompt that leaves no room for an answer."""
    return invalid(
        f"this model's context holds {context} tokens, prompt and answer together, and the prompt has {tokens}: "
        "shorten it",
        param=param,
        code="context_length_exceeded",
    )


def check_reply(before: int, reply: Sequence[int], tokenizer: Tokenizer, context: int) -> None:
    """Raise ApiFault unless `before` tokens and the beginning of an answer leave room for more within the `context`.

    If the beginning ends with a tool call or within its output, the whole output counts.
    """
    read = before + len(reply)
    if read < context:  # a call in a longer one is not run
        read += len(ToolUse(DEFAULT_TOOLS, tokenizer).begin(reply))
    if read >= context:
        raise too_long(read, context, "messages")


def described(tokenizer: Tokenizer, ids: Sequence[int]) -> list[dict[str, Any]]:
    """For each id: its text, the name of a special token, and whose words it belongs to (None outside of turns)."""
    names = tokenizer.special_names
    role: str | None = None
    found: list[dict[str, Any]] = []
    for token in ids:
        name = names.get(token)
        following = _ROLE_AFTER.get(name) if name else role
        found.append(
            {
                "id": token,
                "text": tokenizer.decode([token]),
                "special": name,
                "role": role if name in _CLOSING or name is None else following or role,
            }
        )
        role = following
    return found
