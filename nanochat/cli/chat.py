"""Chat with a model in the terminal, or ask it one question. Answers go to stdout, everything else to stderr."""

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Annotated

import tyro

from nanochat.checkpoint.loading import load_model
from nanochat.console import console, say, warn
from nanochat.flags import ModelTag
from nanochat.infer.engine import Engine
from nanochat.infer.request import Event
from nanochat.infer.sampler import SamplingParams
from nanochat.infer.window import fit_messages
from nanochat.runtime import Runtime
from nanochat.tokenizer.chat_format import Message, parse_reply, render_prompt

_COMMANDS = {
    "/new": "start a new conversation",
    "/help": "show this list",
    "/quit": "quit (or Ctrl-D; Ctrl-C stops an answer)",
}


@dataclass(frozen=True)
class ChatConfig:
    """Which model to chat with, and how to sample."""

    model_tag: ModelTag = "sft"
    """The run to chat with: its model tag, or the path of its checkpoints."""
    prompt: Annotated[str | None, tyro.conf.arg(aliases=["-p"])] = None
    """Answer this question, print only the answer to stdout, and exit."""
    system: str | None = None
    """System prompt: instructions before the first message."""
    temperature: float = 0.6
    """Sampling temperature; 0 is greedy."""
    top_k: int | None = 50
    """Sample from the k most likely tokens; None: from all."""
    top_p: float = 1.0
    """Sample from the most likely tokens that have this share of the probability."""
    max_new_tokens: int = 256
    """Maximum number of tokens of an answer."""
    seed: int | None = None
    """The same seed gives the same answers; None: random."""
    device: str = "auto"
    dtype: str = "auto"


@dataclass(frozen=True)
class ChatTurn:
    """A question and its answer."""

    prompt: str
    answer: str
    parts: list[dict[str, str]]
    """The whole reply, including tool calls and their outputs."""
    finish_reason: str
    """stop, length or interrupted."""
    tokens: int
    seconds: float


@dataclass(frozen=True)
class ChatResult:
    """The conversation, turn by turn."""

    model_tag: str
    step: int
    turns: list[ChatTurn]


class Chat:
    """A conversation, independent of the terminal. Drops its oldest turns when the context is full."""

    def __init__(self, engine: Engine, params: SamplingParams, system: str | None = None):
        self._engine, self._params, self._system = engine, params, system
        self.forget()
        room = min(params.max_new_tokens, engine.max_seq_len // 2)
        self._longest_prompt = engine.max_seq_len - room

    def forget(self) -> None:
        """Start a new conversation with the same system prompt."""
        self.messages: list[Message] = []
        if self._system is not None:
            self.messages.append({"role": "system", "content": self._system})

    def ask(self, text: str) -> Generator[Event, None, None]:
        """The reply, token by token. Closing the generator stops the reply; the part generated so far is kept.

        Raises ValueError if the message alone does not fit into the context; the message is then dropped.
        """
        tokenizer = self._engine.tokenizer
        messages = fit_messages(
            [*self.messages, {"role": "user", "content": text}],
            lambda kept: len(render_prompt(tokenizer, kept)),
            self._longest_prompt,
        )
        events = self._engine.stream(render_prompt(tokenizer, messages), self._params)
        self.messages = messages
        return self._listen(events)

    def _listen(self, events: Generator[Event, None, None]) -> Generator[Event, None, None]:
        ids = []
        try:
            with closing(events):
                for event in events:
                    ids.append(event.token)
                    yield event
        finally:
            reply = parse_reply(self._engine.tokenizer, ids)
            self.messages.append({"role": "assistant", "content": reply})


def run(config: ChatConfig, runtime: Runtime) -> ChatResult:
    """Answer `config.prompt`, or each line of stdin until its end.

    Raises ValueError for invalid sampling parameters, a missing model or a prompt that is too long.
    """
    params = SamplingParams(
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        seed=config.seed,
        max_new_tokens=config.max_new_tokens,
    )
    loaded = load_model(config.model_tag, runtime)
    chat = Chat(Engine(loaded.model, loaded.tokenizer, max_rows=1), params, config.system)
    if config.prompt is not None:
        turns = [_hear(chat, config.prompt, chat.ask(config.prompt))]
    else:
        if sys.stdin.isatty():
            say(f"{config.model_tag}, step {loaded.step}, on {runtime.device}. /help lists the commands.")
        turns = list(_converse(chat, _lines()))
    return ChatResult(config.model_tag, loaded.step, turns)


def _converse(chat: Chat, lines: Iterator[str]) -> Iterator[ChatTurn]:
    for line in lines:
        match line.strip():
            case "":
                continue
            case "/quit":
                return
            case "/new":
                chat.forget()
            case "/help":
                for name, meaning in _COMMANDS.items():
                    say(f"  {name:6} {meaning}")
            case text if text.startswith("/"):
                warn(f"unknown command {text.split()[0]}: /help lists them")
            case text:
                try:
                    reply = chat.ask(text)
                except ValueError as error:
                    warn(str(error))
                    continue
                with _interrupts() as interrupted:
                    turn = _hear(chat, text, reply, interrupted)
                yield turn


def _hear(
    chat: Chat,
    prompt: str,
    reply: Generator[Event, None, None],
    interrupted: Callable[[], bool] = lambda: False,
) -> ChatTurn:
    """Show a reply while it is generated, until it ends or is interrupted."""
    began = time.perf_counter()
    events: list[Event] = []

    def until_interrupted() -> Iterator[Event]:
        with closing(reply):
            for event in reply:
                events.append(event)
                yield event
                if interrupted():
                    return

    _show(until_interrupted())
    if events[-1].finished == "length":
        _note(f"(cut off after {len(events)} tokens)")
    return ChatTurn(
        prompt=prompt,
        answer="".join(event.text for event in events if event.part == "text"),
        parts=[dict(part) for part in chat.messages[-1]["content"]],
        finish_reason=events[-1].finished or "interrupted",
        tokens=len(events),
        seconds=time.perf_counter() - began,
    )


def _show(events: Iterator[Event]) -> None:
    """Print text to stdout as it arrives, and each completed tool call as a dim line to stderr."""
    on_terminal = sys.stdout.isatty()
    code = ""
    mid_line = False
    for part, group in groupby(events, key=lambda event: event.part):
        if part == "text":
            for event in group:
                text = _printable(event.text) if on_terminal else event.text
                print(text, end="", flush=True)
                mid_line = not text.endswith("\n") if text else mid_line
        elif part == "python":
            code = "".join(event.text for event in group)
        else:
            output = "".join(event.text for event in group)
            new_line = "\n" if on_terminal and mid_line else ""
            _note(f"{new_line}⚙ {code} = {output}")
            mid_line = False
    print(flush=True)


def _note(line: str) -> None:
    console().print(_printable(line), style="dim", markup=False, soft_wrap=True)


def _printable(text: str) -> str:
    """`text` without control characters, which could disturb the terminal."""
    return "".join(character for character in text if character.isprintable() or character in "\n\t")


def _lines() -> Iterator[str]:
    """The lines of stdin; with editing and history at a terminal."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    with contextlib.suppress(ImportError):  # not available on every platform
        import readline  # noqa: F401 - enables editing in input()
    while True:
        try:
            yield input("> " if sys.stdout.isatty() else "")
        except EOFError:
            say("")
            return
        except KeyboardInterrupt:
            say("\n(Ctrl-D or /quit to quit)")


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Record Ctrl-C instead of raising KeyboardInterrupt; the yielded function tells whether it was pressed."""
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: pressed.append(number))
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)
