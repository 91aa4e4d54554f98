"""Tool calls between OpenAI's messages (and TRL's, whose arguments are objects) and the parts of our answers.

    {"role": "assistant", "content": "So:", "tool_calls": [{"id": "call_0", "type": "function",
        "function": {"name": "python", "arguments": "{\\"code\\": \\"47*36\\"}"}}]}
    {"role": "tool", "tool_call_id": "call_0", "content": "1692"}
    {"role": "assistant", "content": "It is 1692."}

is one answer of ours: text, python, python_output, text. Our one tool takes Python, so that a call of another function
becomes the Python that calls it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from nanochat.config import parse_json
from nanochat.tokenizer.chat_format import Message

PYTHON_TOOLS = ("python", "code_interpreter")
"""Names under which others call Python; the first is our tool's."""
TOOL = PYTHON_TOOLS[0]
CODE = "code"
"""Its argument."""

Style = Literal["openai", "trl"]
_ROLES = {"system": "system", "developer": "system", "user": "user"}


def to_openai(messages: Sequence[Message], style: Style = "openai") -> list[dict[str, Any]]:
    """Our messages as OpenAI's or TRL's: an answer becomes as many messages as it has tool calls and texts.

    Raises ValueError for an output without a call before it, an unknown part, and content that is not text.
    """
    result: list[dict[str, Any]] = []
    calls = 0
    for message in messages:
        if message.get("role") != "assistant":
            result.append({"role": message.get("role"), "content": _text(message.get("content"))})
            continue
        content = message.get("content")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        begun = len(result)
        for kind, text in _kinds(parts):
            last = result[-1] if len(result) > begun else {}
            if kind == "python_output":
                if "tool_calls" not in last:
                    raise ValueError(f"the output {text!r} does not follow the call that it belongs to")
                result.append(_output(last["tool_calls"][0], text, style))
            elif kind == "python":
                if last.get("role") != "assistant" or "tool_calls" in last:
                    result.append({"role": "assistant", "content": ""})
                result[-1]["tool_calls"] = [_call(text, calls, style)]
                calls += 1
            else:
                result.append({"role": "assistant", "content": text})
        if len(result) == begun:
            result.append({"role": "assistant", "content": ""})
    return result


def from_openai(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """OpenAI's or TRL's messages as ours: an assistant's messages and its tools' outputs in succession are one answer.

    Of several calls in one message, each is followed by its output. Raises ValueError, naming the message, for an
    output of no call, an unknown role, and content that is not text.
    """
    result: list[dict[str, Any]] = []
    answer: _Answer | None = None
    for number, message in enumerate(messages):
        try:
            role = message.get("role")
            if isinstance(role, str) and role in _ROLES:
                answer = None
                result.append({"role": _ROLES[role], "content": _text(message.get("content"))})
                continue
            if role not in ("assistant", "tool"):
                raise ValueError(f"its role is {repr(role)[:40]}")
            if answer is None:
                answer = _Answer()
                result.append({"role": "assistant"})
            (answer.speak if role == "assistant" else answer.settle)(message)
        except ValueError as error:
            raise ValueError(f"message {number}: {error}") from None
        result[-1]["content"] = answer.content()
    return result


@dataclass
class _ToolCall:
    id: Any
    code: str
    output: str | None = None


@dataclass
class _Answer:
    """An answer while its messages are read: texts and calls in order."""

    _items: list[str | _ToolCall] = field(default_factory=list)
    _latest: list[_ToolCall] = field(default_factory=list)

    def speak(self, message: Mapping[str, Any]) -> None:
        """An assistant's message."""
        if message.get("function_call") is not None:
            raise ValueError("function_call is the form before tool_calls: rewrite it")
        calls = message.get("tool_calls") or []
        if not isinstance(calls, Sequence) or not all(isinstance(call, Mapping) for call in calls):
            raise ValueError("its tool_calls are not a list of objects")
        text = "" if message.get("content") is None else _text(message["content"])
        if text or not calls:
            self._items.append(text)
        self._latest = [_ToolCall(call.get("id"), _code(call.get("function"))) for call in calls]
        self._items += self._latest

    def settle(self, message: Mapping[str, Any]) -> None:
        """A tool's message: the output of a call of the latest message, the one it names or the first without."""
        name = message.get("tool_call_id")
        waiting = (call for call in self._latest if call.output is None)
        found = next((call for call in waiting if name is None or call.id == name), None)
        if found is None:
            raise ValueError(f"no call waits for this output (tool_call_id {name!r})")
        found.output = _text(message.get("content"))

    def content(self) -> str | list[dict[str, str]]:
        """As a message of ours has it: a string if it is one text."""
        if len(self._items) == 1 and isinstance(self._items[0], str):
            return self._items[0]
        parts = []
        for item in self._items:
            if isinstance(item, str):
                parts.append({"type": "text", "text": item})
                continue
            parts.append({"type": "python", "text": item.code})
            if item.output is not None:
                parts.append({"type": "python_output", "text": item.output})
        return parts


def _code(function: Any) -> str:
    """The Python of a call. Text that is no JSON object is itself the code: models write that too."""
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ValueError("a tool call has no function with a name")
    name, arguments = function["name"], function.get("arguments")
    if isinstance(arguments, str):
        try:
            parsed = parse_json(arguments)
        except ValueError:
            parsed = None
        arguments = parsed if isinstance(parsed, dict) else arguments
    if name in PYTHON_TOOLS:
        code = arguments.get(CODE) if isinstance(arguments, Mapping) else arguments
        if not isinstance(code, str):
            raise ValueError('a call of python without code: its arguments are code or {"code": "..."}')
        return code
    if not isinstance(arguments, Mapping):
        raise ValueError(f"the arguments of {name!r} are not an object")
    if not all(word.isidentifier() for word in (name, *arguments)):
        raise ValueError(f"{name!r} and its arguments are not names that Python has")
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


def tool_names(message: Mapping[str, Any]) -> list[str]:
    """The names of the functions that a message calls, as far as it is well-formed."""
    calls = message.get("tool_calls")
    functions = (
        [call.get("function") for call in calls if isinstance(call, Mapping)]
        if isinstance(calls, list)
        else []
    )
    return [str(function.get("name")) for function in functions if isinstance(function, Mapping)]


def _call(code: str, number: int, style: Style) -> dict[str, Any]:
    arguments = {CODE: code}
    if style == "trl":
        return {"type": "function", "function": {"name": TOOL, "arguments": arguments}}
    written = json.dumps(arguments, ensure_ascii=False)
    return {
        "id": f"call_{number}",
        "type": "function",
        "function": {"name": TOOL, "arguments": written},
    }


def _output(call: Mapping[str, Any], text: str, style: Style) -> dict[str, Any]:
    who = {"name": TOOL} if style == "trl" else {"tool_call_id": call["id"]}
    return {"role": "tool", **who, "content": text}


def _kinds(parts: Any) -> Iterator[tuple[str, str]]:
    """(kind, text) of each part of an answer of ours."""
    if not isinstance(parts, Sequence):
        raise ValueError(f"the content {parts!r} is neither a string nor a list of parts")
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in ("text", "python", "python_output"):
            raise ValueError(f"a part of an answer is {part!r}")
        yield kind, _text(part.get("text"))


def _text(content: Any) -> str:
    """A content as one string; OpenAI's list of text parts is joined."""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence) and all(
        isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)
        for part in content
    ):
        return "".join(part["text"] for part in content)
    raise ValueError("content that is not text")
