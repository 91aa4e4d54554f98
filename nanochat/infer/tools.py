"""Tools that a model calls while it answers: which special tokens mark a call, and what runs it.

The model writes <|python_start|> expression <|python_end|>; the result is then forced upon it between
<|output_start|> and <|output_end|>. A call that is refused is answered with `error`, because a model left
without an output would invent one. Only ids of special tokens open or close a call, so no text that a user
or a model writes out can: the tokenizer never makes those ids from text.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from nanochat.sandbox.calculator import evaluate
from nanochat.tokenizer.special import OUTPUT_END, OUTPUT_START, PYTHON_END, PYTHON_START
from nanochat.tokenizer.tokenizer import Tokenizer

REFUSED = "error"
"""The output of a call that its tool does not answer."""
MAX_CALL_TOKENS = 256
MAX_OUTPUT_TOKENS = 128
"""A longer call, or a call with a longer output, is refused: either would eat the context."""

Part = Literal["text", "python", "python_output"]
"""What a token belongs to, in the words of nanochat.tokenizer.chat_format."""


@dataclass(frozen=True)
class Tool:
    """The special tokens of one kind of call, and what answers it: the text of a call → a result, or None."""

    call_start: str
    call_end: str
    output_start: str
    output_end: str
    run: Callable[[str], str | None]


ToolTable = tuple[Tool, ...]

DEFAULT_TOOLS: ToolTable = (Tool(PYTHON_START, PYTHON_END, OUTPUT_START, OUTPUT_END, evaluate),)


class ToolUse:
    """The tool state of one request: tells what part each token belongs to, and answers finished calls."""

    def __init__(self, tools: ToolTable, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._opening: dict[int, tuple[Part, Tool]] = {}
        self._closing: set[int] = set()
        for tool in tools:
            self._opening[tokenizer.special(tool.call_start)] = ("python", tool)
            self._opening[tokenizer.special(tool.output_start)] = ("python_output", tool)
            self._closing |= {tokenizer.special(tool.call_end), tokenizer.special(tool.output_end)}
        self._part: Part = "text"  # that the next token belongs to
        self._tool: Tool  # whose part is open
        self._call: list[int] = []

    def push(self, token: int) -> tuple[Part, list[int]]:
        """Take the next token of an answer; returns its part and the tokens that must follow, mostly none.

        A special token belongs to the part that it ends. A call opened anew forgets what it had, and an end
        without a beginning means nothing.
        """
        part = self._part
        forced: list[int] = []
        if token in self._opening:
            self._part, self._tool = self._opening[token]
            self._call = []
        elif token in self._closing:
            if part == "python" and token == self._tokenizer.special(self._tool.call_end):
                forced = self._answer(self._tool)
            self._part = "text"
        elif part == "python":
            self._call.append(token)
        return part, forced

    def _answer(self, tool: Tool) -> list[int]:
        result = None
        if len(self._call) <= MAX_CALL_TOKENS:
            result = tool.run(self._tokenizer.decode(self._call))
        output = self._tokenizer.encode(REFUSED if result is None else result)
        if len(output) > MAX_OUTPUT_TOKENS:
            output = self._tokenizer.encode(REFUSED)
        special = self._tokenizer.special
        return [special(tool.output_start), *output, special(tool.output_end)]
