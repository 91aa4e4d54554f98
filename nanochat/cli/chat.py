"""Chat with a model in the terminal, or ask it one question. Answers go to stdout, everything else to stderr."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import tyro

from nanochat.cli.chat_app import ChatApp
from nanochat.cli.chat_commands import complete, handle
from nanochat.cli.chat_display import note
from nanochat.cli.chat_files import LAST, load_chat
from nanochat.cli.chat_models import open_speaker
from nanochat.cli.chat_session import ChatSession, ChatTurn
from nanochat.cli.chat_terminal import piped_text, read_messages
from nanochat.console import say
from nanochat.flags import ModelTag
from nanochat.infer.frozen import WeightsName
from nanochat.infer.sampler import CHAT_SAMPLING, SamplingParams
from nanochat.paths import CHAT_RUN
from nanochat.runtime import Runtime
from nanochat.tokenizer.chat_format import Message

_RIVALS = 5
"""Likeliest tokens kept of each token of an answer, for /probs."""


@dataclass(frozen=True)
class ChatConfig:
    """Which model to chat with, and how to sample."""

    model_tag: ModelTag = CHAT_RUN
    """The run to chat with: its model tag, or the path of its checkpoints; RUN@STEP for an older step."""
    prompt: Annotated[str | None, tyro.conf.arg(aliases=["-p"])] = None
    """Answer this question, print only the answer to stdout, and exit. Text piped to stdin is added to it."""
    compare: str | None = None
    """A second run, RUN or RUN@STEP, that answers every question too, with the same seed."""
    continue_: Annotated[bool, tyro.conf.arg(name="continue")] = False
    """Continue the last conversation of a terminal chat."""
    verbose: bool = False
    """Show tokens, tokens per second, time to the first token and context used after each answer."""
    system: str | None = None
    """System prompt: instructions before the first message."""
    temperature: float = CHAT_SAMPLING.temperature
    """Sampling temperature; 0 is greedy."""
    top_k: int | None = CHAT_SAMPLING.top_k
    """Sample from the k most likely tokens; None: from all."""
    top_p: float = CHAT_SAMPLING.top_p
    """Sample from the most likely tokens that have this share of the probability."""
    max_new_tokens: int = CHAT_SAMPLING.max_new_tokens
    """Maximum number of tokens of an answer."""
    seed: int | None = None
    """The same seed gives the same answers; None: random."""
    weights: WeightsName = "fp32"
    """How a CPU stores the matrices: bf16 and int8 answer faster and cost little (docs/benchmarks.md)."""
    device: str = "auto"
    dtype: str = "auto"


@dataclass(frozen=True)
class ChatResult:
    """The conversation, turn by turn."""

    model_tag: str
    step: int
    turns: list[ChatTurn]


def run(config: ChatConfig, runtime: Runtime) -> ChatResult:
    """Answer `config.prompt`, or converse until the end of stdin.

    Raises ValueError for invalid sampling parameters, a missing model or conversation, an empty prompt and one that
    is too long.
    """
    params = SamplingParams(
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        seed=config.seed,
        max_new_tokens=config.max_new_tokens,
    )
    at_terminal = sys.stdin is not None and sys.stdin.isatty()
    question = None if config.prompt is None else _joined(config.prompt)
    earlier = _last_chat(runtime) if config.continue_ else None
    models = [config.model_tag] if config.compare is None else [config.model_tag, config.compare]
    speakers = [open_speaker(model, runtime, config.weights) for model in models]
    if question is None:
        params = replace(params, logprobs=_RIVALS)
    app = ChatApp(
        ChatSession(speakers, params),
        runtime,
        verbose=config.verbose,
        kept=config.continue_ or (at_terminal and question is None),
    )
    if earlier is not None:
        app.session.load(earlier)
    if config.system is not None:
        app.session.set_system(config.system)
    if question is not None:
        app.answer_once(question)
    else:
        _converse(app, at_terminal=at_terminal)
    return ChatResult(speakers[0].model_tag, speakers[0].step, app.turns)


def _last_chat(runtime: Runtime) -> Sequence[Message]:
    path = runtime.paths.chat(LAST)
    if not path.is_file():
        raise ValueError("no conversation to continue: a chat at a terminal keeps one after each answer")
    return load_chat(path)


def _converse(app: ChatApp, *, at_terminal: bool) -> None:
    if at_terminal:
        who = " and ".join(
            f"{side.speaker.model_tag}, step {side.speaker.step}" for side in app.session.sides
        )
        say(f"{who}, on {app.runtime.device}. /help lists the commands.")
        app.recall()
    for message in read_messages(app.runtime.paths.chat_history, lambda line: complete(app, line)):
        try:
            handle(app, message)
        except KeyboardInterrupt:  # at a terminal only Ctrl-D and /quit quit
            if not at_terminal:
                raise
            note("(interrupted)")
            app.keep()
        if app.done:
            return


def _joined(prompt: str) -> str:
    """The prompt, and below it the text of a pipe or file on stdin. Raises ValueError if that is nothing."""
    text = piped_text()
    question = f"{prompt}\n\n{text}" if prompt.strip() and text else prompt or text
    if not question.strip():
        raise ValueError("the prompt is empty: give a question after -p, or text on stdin")
    return question
