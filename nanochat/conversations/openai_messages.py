"""Tool calls of OpenAI's messages (and TRL's, whose arguments are objects) as the parts of our answers.

    {"role": "assistant", "content": "So:", "tool_calls": [{"id": "call_0", "type": "function",
        "function": {"name": "python", "arguments": "{\\"code\\": \\"47*36\\"}"}}]}
    {"role": "tool", "tool_call_id": "call_0", "content": "1692"}
    {"role": "assistant", "content": "It is 1692."}

is one answer of ours: text, python, python_output, text. Our one tool takes Python, so that a call of another function
becomes the Python that calls it. Fine-tuning and the server read with the same `Reply`: a model is shown in a history
what it was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nanochat.config import parse_json

PYTHON_TOOLS = ("python", "code_interpreter")
"""Names under which others call Python; the first is our tool's."""
_CODE = "code"
"""Its argument."""
_ROLES = {"system": "system", "developer": "system", "user": "user"}


def from_openai(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """OpenAI's or TRL's messages as ours: an assistant's messages and its tools' outputs in succession are one answer.

    Of several calls in one message, each is followed by its output. Raises ValueError, naming the message, for an
    output of no call, an unknown role, and content that is not text.
    """
    result: list[dict[str, Any]] = []
    reply: Reply | None = None
    for number, message in enumerate(messages):
        try:
            role = message.get("role")
            if isinstance(role, str) and role in _ROLES:
                reply = None
                result.append({"role": _ROLES[role], "content": _text(message.get("content"))})
                continue
            if role not in ("assistant", "tool"):
                raise ValueError(f"its role is {repr(role)[:40]}")
            if reply is None:
                reply = Reply()
                result.append({"role": "assistant"})
            if role == "tool":
                reply.settle(_text(message.get("content")), message.get("tool_call_id"))
            else:
                _speak(reply, message)
        except ValueError as error:
            raise ValueError(f"message {number}: {error}") from None
        result[-1]["content"] = reply.content()
    return result


def _speak(reply: Reply, message: Mapping[str, Any]) -> None:
    if message.get("function_call") is not None:
        raise ValueError("function_call is the form before tool_calls: rewrite it")
    calls = message.get("tool_calls") or []
    if not isinstance(calls, Sequence) or not all(isinstance(call, Mapping) for call in calls):
        raise ValueError("its tool_calls are not a list of objects")
    content = message.get("content")
    reply.speak([{"type": "text", "text": "" if content is None else _text(content)}], calls)


@dataclass
class _Call:
    id: Any
    code: str
    output: str | None = None

    def parts(self) -> list[dict[str, str]]:
        call = {"type": "python", "text": self.code}
        return [call] if self.output is None else [call, {"type": "python_output", "text": self.output}]


@dataclass
class Reply:
    """A reply of ours while the messages that it consists of are read. Each call is followed by its output."""

    _items: list[dict[str, str] | _Call] = field(default_factory=list)
    _latest: list[_Call] = field(default_factory=list)

    def speak(self, parts: Sequence[dict[str, str]], tool_calls: Sequence[Mapping[str, Any]] = ()) -> None:
        """An assistant's message: its content as parts of ours, then its calls as OpenAI writes them.

        Raises ValueError for a call that has no Python.
        """
        self._latest = [_Call(call.get("id"), _code(call.get("function"))) for call in tool_calls]
        self._items += [part for part in parts if part["text"] or part["type"] != "text"]
        self._items += self._latest

    def settle(self, output: str, call_id: Any = None) -> None:
        """A tool's message: the output of a call of the latest message, the one with this id or the first without.

        Raises ValueError if no such call waits for its output.
        """
        waiting = (call for call in self._latest if call.output is None)
        found = next((call for call in waiting if call_id is None or call.id == call_id), None)
        if found is None:
            raise ValueError(f"no call waits for this output (tool_call_id {call_id!r})")
        found.output = output

    def content(self) -> str | list[dict[str, str]]:
        """As a message of ours has it: a string if it is one text."""
        parts = [
            part for item in self._items for part in (item.parts() if isinstance(item, _Call) else [item])
        ]
        if not parts:
            return ""
        return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts


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
        code = arguments.get(_CODE) if isinstance(arguments, Mapping) else arguments
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
