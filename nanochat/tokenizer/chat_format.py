"""The chat format: turns messages into tokens, and a reply's tokens back into parts.

A conversation is `{"messages": [...]}`; a message `{"role", "content"}`. A system message may come first
and is merged into the first user message. Then user and assistant alternate:

    <|bos|> <|user_start|> question <|user_end|> <|assistant_start|> answer <|assistant_end|> …

An assistant's content is a string, or parts `{"type": "text" | "python" | "python_output", "text"}`; code
is enclosed in <|python_start|> and <|python_end|>, its result in <|output_start|> and <|output_end|>.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from nanochat.tokenizer.special import (
    ASSISTANT_END,
    ASSISTANT_START,
    OUTPUT_END,
    OUTPUT_START,
    PYTHON_END,
    PYTHON_START,
    USER_END,
    USER_START,
)
from nanochat.tokenizer.tokenizer import Tokenizer

Message = Mapping[str, Any]
"""`{"role", "content"}`."""
Conversation = Mapping[str, Any]
"""`{"messages": [message, ...]}`."""

ReplyPart = Literal["text", "python", "python_output"]
"""The type of a part of a reply."""
REPLY_PARTS: tuple[ReplyPart, ...] = get_args(ReplyPart)

# Part type → the special tokens around it, and whether the model is trained on it. Outputs come from the tool:
# a model trained on them would learn to invent results.
_PARTS: dict[str, tuple[str | None, str | None, int]] = {
    "text": (None, None, 1),
    "python": (PYTHON_START, PYTHON_END, 1),
    "python_output": (OUTPUT_START, OUTPUT_END, 0),
}
_BRACKETS = {"text": "{}", "python": "[{} = ", "python_output": "{}] "}


def render(tokenizer: Tokenizer, conversation: Conversation) -> tuple[list[int], list[int]]:
    """Ids and mask of a whole conversation, of equal length.

    The mask is 1 on what the assistant is trained to write: its text, its code with the tokens around it, and
    <|assistant_end|>; 0 on everything else, including <|assistant_start|> and tool outputs.

    Raises ValueError for roles out of order, unknown roles or parts, or content that is not text.
    """
    ids, mask = [tokenizer.bos], [0]
    for message in _turns(conversation["messages"]):
        if message["role"] == "user":
            body = tokenizer.encode(_text(message, "content"))
            ids += [tokenizer.special(USER_START), *body, tokenizer.special(USER_END)]
            mask += [0] * (len(body) + 2)
        else:
            reply, learnt = _render_reply(tokenizer, message)
            ids += [tokenizer.special(ASSISTANT_START), *reply, tokenizer.special(ASSISTANT_END)]
            mask += [0, *learnt, 1]
    return ids, mask


def render_prompt(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Ids up to <|assistant_start|>, to be followed by the assistant's reply to the last user message."""
    if not messages or messages[-1].get("role") != "user":
        raise ValueError("a prompt must end with a user message for the assistant to answer")
    ids, _ = render(tokenizer, {"messages": messages})
    return [*ids, tokenizer.special(ASSISTANT_START)]


def parse_reply(tokenizer: Tokenizer, ids: Sequence[int]) -> list[dict[str, str]]:
    """The parts of a generated reply, usable as an assistant message's content.

    Reads up to <|assistant_end|> (or <|bos|>) if present; a part that was cut off is kept as far as it goes.
    """
    opening = {tokenizer.special(start): kind for kind, (start, _, _) in _PARTS.items() if start}
    closing = {tokenizer.special(end) for _, end, _ in _PARTS.values() if end}
    stops = {tokenizer.special(ASSISTANT_END), tokenizer.bos}
    runs: list[tuple[str, list[int]]] = [("text", [])]
    for token in ids:
        if token in stops:
            break
        if token in opening:
            runs.append((opening[token], []))
        elif token in closing:
            runs.append(("text", []))
        else:
            runs[-1][1].append(token)
    return [{"type": kind, "text": tokenizer.decode(run)} for kind, run in runs if run or kind != "text"]


def bracketed(parts: Sequence[Mapping[str, str]]) -> str:
    """The parts of a reply as one text for people, with tool calls and their outputs in brackets."""
    return "".join(_BRACKETS[part["type"]].format(part["text"]) for part in parts)


def _turns(messages: Sequence[Message]) -> Sequence[Message]:
    """The messages, with the system message merged into the first user's. Raises ValueError unless roles alternate."""
    if not messages:
        raise ValueError("a conversation needs at least one message")
    system = messages[:1] if messages[0].get("role") == "system" else []
    turns = messages[len(system) :]
    for turn, message in enumerate(turns):
        due = "assistant" if turn % 2 else "user"
        if message.get("role") != due:
            raise ValueError(
                f"message {turn + len(system)} has the role {message.get('role')!r} where {due!r} is due: "
                "an optional system message, then user and assistant in turns"
            )
    if not system:
        return turns
    if not turns:
        raise ValueError("a system message must be followed by a user message")
    question = f"{_text(system[0], 'content')}\n\n{_text(turns[0], 'content')}"
    return [{"role": "user", "content": question}, *turns[1:]]


def _text(holder: Mapping[str, Any], key: str) -> str:
    value = holder.get(key)
    if not isinstance(value, str):
        raise ValueError(f"the {key!r} of {dict(holder)} must be a string")
    return value


def _render_reply(tokenizer: Tokenizer, message: Message) -> tuple[list[int], list[int]]:
    content = message.get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, Sequence) or not all(isinstance(part, Mapping) for part in parts):
        raise ValueError(f"the content of {dict(message)} must be a string or a list of parts")
    ids: list[int] = []
    mask: list[int] = []
    for part in parts:
        if part.get("type") not in _PARTS:
            raise ValueError(f"a part has the type {part.get('type')!r}: use {', '.join(_PARTS)}")
        start, end, learnt = _PARTS[part["type"]]
        body = tokenizer.encode(_text(part, "text"))
        if start and end:
            body = [tokenizer.special(start), *body, tokenizer.special(end)]
        ids += body
        mask += [learnt] * len(body)
    return ids, mask
