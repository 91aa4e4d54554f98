"""What is shown: tokens, percentages, two answers side by side."""

import io
import math
import re

import pytest

from nanochat.cli import chat_display as module
from nanochat.cli.chat_display import percent, show_answers, show_ends, token_text
from nanochat.cli.chat_session import ChatSession
from nanochat.infer.sampler import SamplingParams


@pytest.fixture
def session(speaker, other_speaker):
    return ChatSession([speaker, other_speaker], SamplingParams(temperature=0, max_new_tokens=64))


class Terminal(io.StringIO):
    """A stdout that says it is a terminal."""

    def isatty(self) -> bool:
        return True

    def text(self) -> str:
        """What was written, without its escape sequences."""
        return re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", self.getvalue())


@pytest.fixture
def terminal(monkeypatch):
    def open_terminal(columns: int, term: str = "xterm") -> Terminal:
        stdout = Terminal()
        monkeypatch.setattr("sys.stdout", stdout)
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("LINES", "24")
        monkeypatch.setenv("TERM", term)
        return stdout

    return open_terminal


def ask(session: ChatSession, interrupted=lambda: False) -> None:
    with session.asking("hi") as generations:
        show_answers(generations, interrupted)
        show_ends(generations, verbose=False)


def test_two_answers_stand_side_by_side_on_a_wide_terminal(session, script, tokenizer, terminal):
    end = tokenizer.special("<|assistant_end|>")
    script.extend([*tokenizer.encode("LR" * 5), end, end])  # both take turns
    stdout = terminal(100)
    ask(session)
    last = stdout.text().splitlines()[-1]
    assert last.split() == ["LLLLL", "RRRRR"]
    assert "sft@7" in stdout.text()
    assert "base@3" in stdout.text()


@pytest.mark.parametrize(("columns", "term"), [(60, "xterm"), (100, "dumb")])
def test_they_follow_each_other_where_columns_do_not_fit(session, say, terminal, columns, term):
    say("Left.")
    say("Right.")
    stdout = terminal(columns, term)
    ask(session)
    assert stdout.text() == "[sft@7]\nLeft.\n[base@3]\nRight.\n"


def test_ctrl_c_stops_both(session, script, tokenizer, terminal):
    script.extend(tokenizer.encode("LRLRLR"))
    stdout = terminal(100)
    asked = iter([False, False, False, True, True])
    ask(session, lambda: next(asked))
    assert stdout.text().splitlines()[-1].split() == ["LLL", "RRR"]
    assert [side.exchanges[0].content for side in session.sides] == ["LLL", "RRR"]


def test_tool_calls_and_control_characters_in_columns(session, script, tokenizer, say, terminal):
    say("a", ("1+1",), "b\x1b[31m")
    reply = list(script)
    script.clear()
    for token in reply:  # both models write the same
        script.extend([token, token])
    stdout = terminal(100)
    ask(session)
    assert "⚙ 1+1 = 2" in stdout.text()
    assert "b[31m" in stdout.text()


def test_only_characters_that_disturb_a_terminal_are_dropped():
    kept = "10\u00a0km\u202f\u3000 \t\n می\u200cروم 👩\u200d💻 é日\ufeff"
    assert module.printable(kept) == kept
    assert module.printable("\x1b\x07\r\x7f\x9b\u2028\u2029\ud800\u202e\u2066\u200f\u061c") == ""


@pytest.mark.parametrize(
    ("limit", "line"), [(4, "cut off after 4 tokens: max_new_tokens"), (64, "the context of 128 is full")]
)
def test_why_an_answer_was_cut_off(speaker, say, capsys, limit, line):
    session = ChatSession([speaker], SamplingParams(temperature=0, max_new_tokens=limit))
    say("x" * 200)
    if limit == 64:
        session.params = SamplingParams(temperature=0, max_new_tokens=1000)
    ask(session)
    assert line in capsys.readouterr().err


@pytest.mark.parametrize(("limit", "call"), [(4, "123 …"), (9, "12*30 …"), (12, "12*30 = 360")])
def test_a_tool_call_that_was_cut_off_is_shown(speaker, say, capsys, limit, call):
    session = ChatSession([speaker], SamplingParams(temperature=0, max_new_tokens=limit))
    say(("12345" if limit == 4 else "12*30",), "!")
    ask(session)
    assert capsys.readouterr().err.startswith(f"⚙ {call}\n(cut off")


def test_tokens_are_shown_without_blanks(tokenizer):
    def shown(text: bytes) -> list[str]:
        return [token_text(tokenizer, byte) for byte in text]

    assert shown(b"a \n\t\x1b'\xe2") == ["a", "␣", r"\n", r"\t", r"\x1b", "'", r"\xe2"]


@pytest.mark.parametrize(
    ("share", "shown"),
    [(1, "100.0%"), (0.5, "50.0%"), (0.001, "0.1%"), (0.0004, "0.040%"), (1e-9, "<0.001%")],
)
def test_percentages_are_short(share, shown):
    assert percent(math.log(share)) == shown
    assert module.percent(-math.inf) == "<0.001%"
