"""What the user types: messages of one or several lines, with editing, history and completion at a terminal."""

import contextlib
import io
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from nanochat.atomic import write_atomic
from nanochat.console import say, warn
from nanochat.errors import EnvironmentFault
from nanochat.signals import handle_signals

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import History

Complete = Callable[[str], Iterable[str]]
"""The words that may stand in place of the last word of a line."""

FENCE = '"""'
"""Lines between two of these are one message."""
PROMPT = "> "
_CONTINUED = ". "
_EDITORS = ("nano", "vi")
_MOST_HISTORY_BYTES = 1 << 20
_HOW_TO_QUIT = "(Ctrl-D or /quit to quit)"


def read_messages(history: Path, complete: Complete) -> Iterator[str]:
    """The user's messages until the end of stdin: edited at a terminal, else one per line."""
    if sys.stdin is None:
        return iter(())
    if not sys.stdin.isatty():
        _tolerate_bytes()
        return fenced(sys.stdin)
    if not sys.stdout.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        return fenced(_plain_lines())
    return fenced(_edited_lines(_prompt_session(history, complete)))


def piped_text() -> str:
    """The text of stdin if it is a pipe, a socket or a file; nothing from a terminal or a device."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, OSError, ValueError):  # no stdin, a closed one, or one that is no file
        return ""
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISREG(mode)):
        return ""
    _tolerate_bytes()
    return sys.stdin.read().strip("\n")


def _tolerate_bytes() -> None:
    """Read undecodable bytes of stdin as U+FFFD: one of them must not refuse a whole text."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")


def fenced(lines: Iterable[str]) -> Iterator[str]:
    """Messages from lines: each line is one, or all text between two fences. Without the second, up to the end.

    Text between fences is no command: its first slash is doubled.
    """
    lines = iter(lines)
    for line in lines:
        text = line.strip()
        if not text.startswith(FENCE):
            if text:
                yield text
            continue
        while not closed(text) and (following := next(lines, None)) is not None:
            text = f"{text}\n{following.rstrip()}"
        text = text.removeprefix(FENCE).removesuffix(FENCE).strip("\n")
        yield f"/{text}" if text.startswith("/") else text


def closed(text: str) -> bool:
    """Whether text that begins with a fence also ends with one, or needs none."""
    text = text.strip()
    return not text.startswith(FENCE) or (text.endswith(FENCE) and len(text) >= 2 * len(FENCE))


def _plain_lines() -> Iterator[str]:
    """Lines of a terminal that cannot redraw, or whose output goes elsewhere."""
    with contextlib.suppress(ImportError):  # not available on every platform
        import readline  # noqa: F401 - enables editing in input()
    while True:
        try:
            yield input(PROMPT if sys.stdout.isatty() else "")
        except EOFError:
            say("")
            return
        except KeyboardInterrupt:
            say(f"\n{_HOW_TO_QUIT}")


def _edited_lines(session: "PromptSession[str]") -> Iterator[str]:
    while True:
        try:
            yield session.prompt()
        except EOFError:
            return


def _prompt_session(history: Path, complete: Complete) -> "PromptSession[str]":
    """Enter sends, except within fences; Alt-Enter begins a line; a paste is text, whatever its lines."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.output import create_output
    from prompt_toolkit.output.vt100 import Vt100_Output
    from prompt_toolkit.shortcuts import CompleteStyle

    class Words(Completer):
        def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
            line = document.text_before_cursor
            word = line.rpartition(" ")[2]
            for candidate in complete(line):
                yield Completion(candidate, start_position=-len(word))

    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if closed(buffer.text):
            buffer.validate_and_handle()
        else:
            buffer.newline()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.newline()

    @keys.add("c-c")
    @keys.add("<sigint>")
    def _(event: KeyPressEvent) -> None:
        if not event.current_buffer.text:
            from prompt_toolkit.application import run_in_terminal

            run_in_terminal(lambda: say(_HOW_TO_QUIT))
        event.current_buffer.reset()

    output = create_output()
    if isinstance(output, Vt100_Output):
        # The terminal's answer to a question for the cursor's position would mix with what is typed ahead.
        output.enable_cpr = False
    return PromptSession(
        PROMPT,
        multiline=True,
        prompt_continuation=_CONTINUED,
        history=_open_history(history),
        completer=Words(),
        complete_while_typing=False,
        enable_suspend=True,
        complete_style=CompleteStyle.READLINE_LIKE,
        key_bindings=keys,
        output=output,
    )


def _open_history(path: Path) -> "History":
    """The history in a file that only its owner can read; without one if it cannot be written."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    class Kept(FileHistory):
        def store_string(self, string: str) -> None:
            with contextlib.suppress(OSError):  # a full disk costs the line, not the chat
                super().store_string(string.encode("utf-8", "replace").decode())

    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600))
        path.chmod(0o600)
        shorten_history(path)
    except (OSError, EnvironmentFault) as error:
        warn(f"typed lines are not kept: {error}")
        return InMemoryHistory()
    return Kept(path)


def shorten_history(path: Path, most_bytes: int = _MOST_HISTORY_BYTES) -> None:
    """Drop the oldest entries of a history file of more than `most_bytes`, so that it halves."""
    if path.stat().st_size <= most_bytes:
        return
    data = path.read_bytes()[-(most_bytes // 2) :]
    entries = data[max(data.find(b"\n# "), 0) :]
    write_atomic(path, lambda file: file.write(entries))
    path.chmod(0o600)


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Record the first Ctrl-C instead of raising KeyboardInterrupt; the yielded function tells whether it came."""
    pressed: list[int] = []
    before = signal.getsignal(signal.SIGINT)

    def press(number: int, _frame: object) -> None:
        pressed.append(number)
        signal.signal(signal.SIGINT, before)

    with handle_signals(press, signal.SIGINT):
        yield lambda: bool(pressed)


def edit(text: str) -> str:
    """The text after editing it in $VISUAL or $EDITOR. Raises ValueError without a terminal or a working editor."""
    if not sys.stdin.isatty():
        raise ValueError("editing needs a terminal")
    command = (
        os.environ.get("VISUAL") or os.environ.get("EDITOR") or next(filter(shutil.which, _EDITORS), None)
    )
    if command is None:
        raise ValueError("no editor: set EDITOR")
    with tempfile.TemporaryDirectory(prefix="nanochat-") as folder:
        file = Path(folder) / "message.md"
        file.write_text(text, encoding="utf-8")
        try:
            with interrupts():  # Ctrl-C is for the editor
                status = subprocess.run([*shlex.split(command), str(file)]).returncode
        except OSError as error:
            raise ValueError(f"cannot start the editor {command!r} ({error.strerror}): set EDITOR") from None
        if status:
            raise ValueError(f"the editor {command!r} failed with status {status}: nothing is asked")
        return file.read_text(encoding="utf-8", errors="replace").strip("\n")
