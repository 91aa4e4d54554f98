"""Tools that a model calls while it answers: the special tokens that mark a call, and the function that runs it.

The model writes <|python_start|> expression <|python_end|>; the engine then forces the result between
<|output_start|> and <|output_end|>. A refused call is answered with `error`, because a model left without an
output would invent one. Only special token ids open or close a call, and the tokenizer never produces those from
text, so text cannot call a tool.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nanochat.sandbox.calculator import evaluate
from nanochat.tokenizer.chat_format import ReplyPart
from nanochat.tokenizer.special import OUTPUT_END, OUTPUT_START, PYTHON_END, PYTHON_START
from nanochat.tokenizer.tokenizer import Tokenizer

REFUSED = "error"
"""The output of a refused call."""
MAX_CALL_TOKENS = 256
MAX_OUTPUT_TOKENS = 128
"""Longer calls, and calls with longer outputs, are refused: they would fill the context."""


@dataclass(frozen=True)
class Tool:
    """The special tokens of one kind of call, and `run`: code → result, or None to refuse."""

    call_start: str
    call_end: str
    output_start: str
    output_end: str
    run: Callable[[str], str | None]


ToolTable = tuple[Tool, ...]

DEFAULT_TOOLS: ToolTable = (Tool(PYTHON_START, PYTHON_END, OUTPUT_START, OUTPUT_END, evaluate),)


class ToolUse:
    """The tool state of one request: classifies each token and answers complete calls."""

    def __init__(self, tools: ToolTable, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._opening: dict[int, tuple[ReplyPart, Tool]] = {}
        self._closing: set[int] = set()
        for tool in tools:
            self._opening[tokenizer.special(tool.call_start)] = ("python", tool)
            self._opening[tokenizer.special(tool.output_start)] = ("python_output", tool)
            self._closing |= {tokenizer.special(tool.call_end), tokenizer.special(tool.output_end)}
        self._part: ReplyPart = "text"  # of the next token
        self._tool: Tool  # of the open part
        self._call: list[int] = []

    def push(self, token: int) -> tuple[ReplyPart, list[int]]:
        """Process the next token of an answer. Returns (its part, tokens to force next, usually none).

        A special token belongs to the part that it ends. A second start token restarts the call; an end token
        without a start is ignored.
        """
        part, called = self._classify(token)
        return part, self._answer(called, self._call) if called else []

    def begin(self, tokens: Sequence[int]) -> list[int]:
        """Process the beginning of an answer. Returns the tokens that the output of its last call lacks.

        Only that call is run.
        """
        last: tuple[Tool, list[int]] | None = None
        after: list[int] = []
        for token in tokens:
            _, called = self._classify(token)
            after.append(token)
            if called:
                last, after = (called, self._call), []
        if last is None:
            return []
        output = self._answer(*last)
        return output[len(after) :] if after == output[: len(after)] else []

    def push_plain(self, tokens: Sequence[int]) -> ReplyPart:
        """As `push` for tokens that are not special; returns the part of all of them."""
        if self._part == "python":
            self._call += tokens
        return self._part

    def _classify(self, token: int) -> tuple[ReplyPart, Tool | None]:
        """Process the next token. Returns (its part, the tool whose call it ends)."""
        part = self._part
        called = None
        if token in self._opening:
            self._part, self._tool = self._opening[token]
            self._call = []
        elif token in self._closing:
            if part == "python" and token == self._tokenizer.special(self._tool.call_end):
                called = self._tool
            self._part = "text"
        elif part == "python":
            self._call.append(token)
        return part, called

    def _answer(self, tool: Tool, call: Sequence[int]) -> list[int]:
        result = None
        if len(call) <= MAX_CALL_TOKENS:
            result = tool.run(self._tokenizer.decode(call))
        output = self._tokenizer.encode(REFUSED if result is None else result)
        if len(output) > MAX_OUTPUT_TOKENS:
            output = self._tokenizer.encode(REFUSED)
        special = self._tokenizer.special
        return [special(tool.output_start), *output, special(tool.output_end)]
