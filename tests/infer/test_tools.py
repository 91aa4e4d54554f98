"""The tool state machine: only special tokens start a call, and every call gets an output."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.infer.tools import DEFAULT_TOOLS, MAX_CALL_TOKENS, MAX_OUTPUT_TOKENS, ToolUse
from nanochat.tokenizer.special import OUTPUT_END, OUTPUT_START, PYTHON_END, PYTHON_START


def call(tokenizer, code: str) -> list[int]:
    return [tokenizer.special(PYTHON_START), *tokenizer.encode(code), tokenizer.special(PYTHON_END)]


def output(tokenizer, text: str) -> list[int]:
    return [tokenizer.special(OUTPUT_START), *tokenizer.encode(text), tokenizer.special(OUTPUT_END)]


def feed(use: ToolUse, tokens: list[int]) -> list[int]:
    """The tokens forced by the last token; earlier ones must not force any."""
    *earlier, last = tokens
    for token in earlier:
        assert use.push(token)[1] == []
    return use.push(last)[1]


@pytest.mark.parametrize(
    ("code", "result"),
    [
        ("12*34", "408"),
        ("'strawberry'.count('r')", "3"),
        ("__import__('os')", "error"),
        ("", "error"),
        ("1/0", "error"),
    ],
)
def test_a_call_is_answered_or_refused_with_error(tokenizer, code, result):
    use = ToolUse(DEFAULT_TOOLS, tokenizer)
    assert feed(use, call(tokenizer, code)) == output(tokenizer, result)


def test_a_second_call_does_not_remember_the_first(tokenizer):
    use = ToolUse(DEFAULT_TOOLS, tokenizer)
    for token in feed(use, call(tokenizer, "1+1")):
        assert use.push(token)[1] == []
    assert feed(use, call(tokenizer, "2+2")) == output(tokenizer, "4")


def test_a_second_start_token_restarts_the_call(tokenizer):
    use = ToolUse(DEFAULT_TOOLS, tokenizer)
    assert feed(use, call(tokenizer, "9*9")[:-1]) == []
    assert feed(use, call(tokenizer, "2+2")) == output(tokenizer, "4")


@given(st.text(max_size=30))
def test_text_never_calls_a_tool(tokenizer, text):
    use = ToolUse(DEFAULT_TOOLS, tokenizer)
    written = f"{text}{PYTHON_START}1+1{PYTHON_END}{text}"
    assert all(use.push(token) == ("text", []) for token in tokenizer.encode(written))


def test_an_end_token_without_a_start_is_ignored(tokenizer):
    use = ToolUse(DEFAULT_TOOLS, tokenizer)
    assert feed(use, [*tokenizer.encode("1+1"), tokenizer.special(PYTHON_END)]) == []
    assert (
        feed(use, [tokenizer.special(PYTHON_START), *tokenizer.encode("1"), tokenizer.special(OUTPUT_END)])
        == []
    )


def test_calls_and_outputs_beyond_their_bounds_are_refused(tokenizer):
    calls = []

    def repeat(code: str) -> str:
        calls.append(code)
        return code

    tools = (replace(DEFAULT_TOOLS[0], run=repeat),)
    fits, too_long = "x" * MAX_OUTPUT_TOKENS, "x" * (MAX_OUTPUT_TOKENS + 1)
    assert feed(ToolUse(tools, tokenizer), call(tokenizer, fits)) == output(tokenizer, fits)
    assert feed(ToolUse(tools, tokenizer), call(tokenizer, too_long)) == output(tokenizer, "error")
    assert feed(ToolUse(tools, tokenizer), call(tokenizer, "x" * (MAX_CALL_TOKENS + 1))) == output(
        tokenizer, "error"
    )
    assert calls == [fits, too_long]


def test_only_the_last_call_of_an_answers_beginning_is_run(tokenizer):
    calls = []

    def run(code: str) -> str:
        calls.append(code)
        return "7"

    tools = (replace(DEFAULT_TOOLS[0], run=run),)
    seven = output(tokenizer, "7")
    for after, lacking in [([], seven), (seven[:2], seven[2:]), (seven, []), ([65], []), ([*seven, 65], [])]:
        tokens = [*call(tokenizer, "first"), *seven, *call(tokenizer, "last"), *after]
        assert ToolUse(tools, tokenizer).begin(tokens) == lacking
    assert calls == ["last"] * 5


def test_each_token_is_assigned_its_part(tokenizer):
    use = ToolUse(DEFAULT_TOOLS, tokenizer)
    tokens = [*tokenizer.encode("a"), *call(tokenizer, "1"), *output(tokenizer, "1"), *tokenizer.encode("b")]
    parts = [use.push(token)[0] for token in tokens]
    assert parts == ["text", "text", "python", "python", "text", "python_output", "python_output", "text"]


def test_without_tools_everything_is_text(tokenizer):
    use = ToolUse((), tokenizer)
    assert [use.push(token) for token in call(tokenizer, "1+1")] == [("text", [])] * 5
