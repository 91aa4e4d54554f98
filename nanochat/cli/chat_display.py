"""What the terminal chat shows: answers on stdout as they arrive, everything else on stderr."""

import math
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from nanochat.cli.chat_session import ChatReply, Exchange, Generation, is_whole_output
from nanochat.console import console, table
from nanochat.infer.request import Event
from nanochat.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

_LEAST_COLUMNS = 80
"""Two answers are shown side by side on terminals of at least this width."""
_REDRAW_S = 0.05
_SHOWN_SPACE = "␣"
_LEAST_PERCENT = 0.001
_DISTURBING = {"Cc", "Cs", "Zl", "Zp"}
"""The categories of control characters, lone surrogates and separators of lines and paragraphs."""
_BIDI_CONTROLS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

Interrupted = Callable[[], bool]


def note(line: str) -> None:
    """Print one dim line to stderr."""
    console().print(printable(line), style="dim", markup=False, soft_wrap=True)


def printable(text: str) -> str:
    """`text` without characters that could disturb the terminal or reorder what it shows."""
    return "".join(
        c
        for c in text
        if c in "\n\t" or (unicodedata.category(c) not in _DISTURBING and c not in _BIDI_CONTROLS)
    )


def show_answers(generations: Sequence[Generation], interrupted: Interrupted) -> None:
    """Generate the answers to their ends, or until interrupted, and show them meanwhile."""
    if len(generations) == 1:
        _stream(generations[0], interrupted)
        return
    wide = _wide_terminal()
    if wide is not None:
        _side_by_side(wide, generations, interrupted)
        return
    for generation in generations:
        print(f"[{generation.speaker.label}]")
        _stream(generation, interrupted)


def _stream(generation: Generation, interrupted: Interrupted) -> None:
    """Print text to stdout as it arrives, and each completed tool call as a dim line to stderr."""
    on_terminal = sys.stdout.isatty()
    code = ""
    mid_line = False
    for part, group in groupby(_events(generation, interrupted), key=lambda event: event.part):
        if part == "text":
            for event in group:
                text = printable(event.text) if on_terminal else event.text
                print(text, end="", flush=True)
                mid_line = not text.endswith("\n") if text else mid_line
        elif part == "python":
            code = "".join(event.text for event in group)
        elif is_whole_output(output := list(group), generation.speaker.engine.tokenizer):
            shown = "".join(event.text for event in output)
            new_line = "\n" if on_terminal and mid_line else ""
            note(f"{new_line}{_tool_line(code)}{shown}")
            mid_line, code = False, ""
    print(flush=True)
    if code:  # the answer ended within a call or its output
        note(f"⚙ {code} …")


def _events(generation: Generation, interrupted: Interrupted) -> Iterator[Event]:
    while not generation.finished and not interrupted():
        yield from generation.step()


def _tool_line(code: str) -> str:
    return f"⚙ {code} = "


# --- two answers side by side ------------------------------------------------------------------------------------


def _wide_terminal() -> "Console | None":
    from rich.console import Console

    stdout = Console(file=sys.stdout, highlight=False)
    usable = stdout.is_terminal and not stdout.is_dumb_terminal and stdout.width >= _LEAST_COLUMNS
    return stdout if usable else None


def _side_by_side(stdout: "Console", generations: Sequence[Generation], interrupted: Interrupted) -> None:
    """Both models take steps in turn. Text beyond the terminal's height appears when they have finished."""
    from rich.live import Live

    drawn = time.monotonic()
    with Live(console=stdout, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        while not interrupted() and (running := [g for g in generations if not g.finished]):
            for generation in running:
                generation.step()
            if time.monotonic() - drawn >= _REDRAW_S:
                live.update(_columns(generations), refresh=True)
                drawn = time.monotonic()
        live.update(_columns(generations), refresh=True)


def _columns(generations: Sequence[Generation]) -> "RenderableType":
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(expand=True, padding=(0, 2))
    for _ in generations:
        grid.add_column(ratio=1)
    grid.add_row(*(Text(generation.speaker.label, style="bold") for generation in generations))
    grid.add_row(*(_answer(generation) for generation in generations))
    return grid


def _answer(generation: Generation) -> "Text":
    """An answer with its tool calls as dim lines."""
    from rich.text import Text

    text = Text()
    for part in generation.reply().parts:
        shown = printable(part["text"])
        match part["type"]:
            case "text":
                text.append(shown)
            case "python":
                text.append(f"{'' if text.plain.endswith(chr(10)) or not text else chr(10)}", style="dim")
                text.append(_tool_line(shown), style="dim")
            case _:
                text.append(f"{shown}\n", style="dim")
    return text


# --- about answers -----------------------------------------------------------------------------------------------


def show_ends(generations: Sequence[Generation], *, verbose: bool) -> None:
    """Why answers ended before the model ended them; with `verbose` also tokens, speed and context, a line each."""
    for generation in generations:
        reply, context = generation.reply(), generation.speaker.engine.max_seq_len
        who = f"{generation.speaker.label}: " if len(generations) > 1 else ""
        if reply.finish_reason == "length":
            full = reply.context_tokens >= context
            limit = f"the context of {context} is full" if full else "max_new_tokens"
            note(f"({who}cut off after {reply.tokens} tokens: {limit})")
        if verbose:
            note(f"{who}{speed_line(reply, context, generation.dropped)}")


def speed_line(reply: ChatReply, context: int, dropped: int) -> str:
    """Tokens, tokens per second after the first, time to the first, and the context used."""
    decoding = reply.seconds - reply.first_token_seconds
    shown = [f"{reply.tokens} tokens"]
    if reply.tokens > 1 and decoding > 0:
        shown.append(f"{(reply.tokens - 1) / decoding:.1f} tok/s")
    shown.append(f"first token after {_short_time(reply.first_token_seconds)}")
    shown.append(f"context {reply.context_tokens} of {context}")
    if dropped:
        shown.append(f"{dropped} {'turn' if dropped == 1 else 'turns'} left out")
    return " · ".join(shown)


def _short_time(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def show_probabilities(generation: Generation) -> None:
    """A table of the tokens of an answer: each one's probability, and its rivals'."""
    tokenizer = generation.speaker.engine.tokenizer

    def name(token: int) -> str:
        return tokenizer.special_names.get(token) or token_text(tokenizer, token)

    def row(event: Event) -> tuple[str, str, str]:
        if event.logprobs is None:
            return name(event.token), "tool", ""
        rivals = (
            f"{name(token)}={percent(logprob)}"
            for token, logprob in event.logprobs.top
            if token != event.token
        )
        return name(event.token), percent(event.logprobs.logprob), "  ".join(rivals)

    table(
        f"{generation.speaker.label}, probabilities before temperature and limits",
        ("token", "prob.", "rivals"),
        map(row, generation.events),
    )


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """A token without blanks: spaces as ␣, escapes for line ends, control characters and parts of characters."""
    data = tokenizer.decode_bytes((token,))
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return repr(data)[2:-1]
    return "".join(_SHOWN_SPACE if c == " " else c if c.isprintable() else repr(c)[1:-1] for c in text)


def percent(logprob: float) -> str:
    """A log-probability as a percentage without blanks, which a table keeps on one line."""
    share = 100 * math.exp(logprob)
    if share < _LEAST_PERCENT:
        return f"<{_LEAST_PERCENT}%"
    return f"{share:.1f}%" if share >= 0.1 else f"{share:.3f}%"


def show_exchange(exchange: Exchange) -> None:
    """A turn of a conversation that is taken up, dim."""
    note("> " + exchange.question.replace("\n", "\n. "))
    code = ""
    for part in exchange.parts:
        match part["type"]:
            case "python":
                code = part["text"]
            case "python_output":
                note(f"{_tool_line(code)}{part['text']}")
            case _:
                note(part["text"])
