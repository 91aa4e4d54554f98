"""A conversation with one model, or with two that answer the same questions. Nothing here knows a terminal."""

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby

from nanochat.cli.chat_models import Speaker
from nanochat.infer.request import Event
from nanochat.infer.sampler import SamplingParams
from nanochat.infer.window import fit_messages
from nanochat.tokenizer.chat_format import Message, render, render_prompt
from nanochat.tokenizer.special import OUTPUT_END
from nanochat.tokenizer.tokenizer import Tokenizer

_SEED_BITS = 32
_LEAST_TOKENS_OF_A_TURN = 4
"""The special tokens around a question and its answer."""


@dataclass(frozen=True)
class ChatReply:
    """A model's answer to a question."""

    model_tag: str
    step: int
    answer: str
    parts: list[dict[str, str]]
    """The whole reply, including tool calls and their outputs."""
    finish_reason: str
    """stop, length or interrupted."""
    seed: int
    """With this seed the same model gives the same answer to the same conversation."""
    tokens: int
    context_tokens: int
    """Tokens of prompt and reply, which share the model's context."""
    seconds: float
    first_token_seconds: float
    """Time to the first token; 0 if there was none."""


@dataclass(frozen=True)
class ChatTurn(ChatReply):
    """A question and its answer."""

    prompt: str
    compared: ChatReply | None
    """The other model's answer with `--compare`."""


@dataclass(frozen=True)
class Exchange:
    """A turn of the conversation: what the next prompt contains of it."""

    question: str
    parts: list[dict[str, str]]

    @property
    def content(self) -> str | list[dict[str, str]]:
        """The answer as a message's content: a string unless tools were used."""
        texts_only = all(part["type"] == "text" for part in self.parts)
        return "".join(part["text"] for part in self.parts) if texts_only else self.parts


class Generation:
    """An answer that is being generated. Each `step` runs the model once."""

    def __init__(self, speaker: Speaker, prompt_ids: Sequence[int], params: SamplingParams, dropped: int):
        """Args: dropped: turns of the conversation that did not fit into the prompt. Raises as `Engine.submit`."""
        assert params.seed is not None
        self.speaker = speaker
        self.dropped = dropped
        self.events: list[Event] = []
        self._prompt_tokens = len(prompt_ids)
        self._seed = params.seed
        self._times: list[float] = []
        self._request = speaker.engine.submit(prompt_ids, params)

    @property
    def finished(self) -> bool:
        """Whether the answer is complete."""
        return bool(self.events) and self.events[-1].finished is not None

    def step(self) -> list[Event]:
        """The next tokens; none while the prompt is being read."""
        if not self._times:
            self._times.append(time.perf_counter())
        events = self.speaker.engine.step()
        if events:
            self.events += events
            self._times.append(time.perf_counter())
        return events

    def close(self) -> None:
        """Stop generating; no effect on a complete answer."""
        self.speaker.engine.cancel(self._request)

    def reply(self) -> ChatReply:
        """What was generated so far."""
        first, last = (self._times[1], self._times[-1]) if self.events else (0.0, 0.0)
        began = self._times[0] if self.events else 0.0
        return ChatReply(
            model_tag=self.speaker.model_tag,
            step=self.speaker.step,
            answer="".join(event.text for event in self.events if event.part == "text"),
            parts=parts_of(self.events, self.speaker.engine.tokenizer),
            finish_reason=(self.events[-1].finished if self.events else None) or "interrupted",
            seed=self._seed,
            tokens=len(self.events),
            context_tokens=self._prompt_tokens + len(self.events),
            seconds=last - began,
            first_token_seconds=first - began,
        )


def parts_of(events: Sequence[Event], tokenizer: Tokenizer) -> list[dict[str, str]]:
    """The parts of a reply, as an assistant message's content. Unlike its tokens, they end before a stop string.

    An output that was cut off is left out: what there is of it is not the tool's result.
    """
    parts = []
    for part, group in groupby(events, key=lambda event: event.part):
        own = list(group)
        text = "".join(event.text for event in own)
        keep = is_whole_output(own, tokenizer) if part == "python_output" else text or part == "python"
        if keep:
            parts.append({"type": part, "text": text})
    return parts


def is_whole_output(events: Sequence[Event], tokenizer: Tokenizer) -> bool:
    """Whether the events of a tool's output reach its end."""
    return events[-1].token == tokenizer.special(OUTPUT_END)


@dataclass
class Side:
    """One model and its conversation."""

    speaker: Speaker
    exchanges: list[Exchange] = field(default_factory=list)
    last: Generation | None = None
    """The last answer token by token, unless it was undone or loaded."""


class ChatSession:
    """The conversation and how to sample its answers. All sides get the same questions."""

    def __init__(self, speakers: Sequence[Speaker], params: SamplingParams):
        self.sides = [Side(speaker) for speaker in speakers]
        self.params = params
        self.system: str | None = None

    @property
    def main(self) -> Side:
        """The side whose conversation is shown and saved; the other only compares."""
        return self.sides[0]

    @property
    def last_question(self) -> str | None:
        """The question of the last turn, if there is one."""
        return self.main.exchanges[-1].question if self.main.exchanges else None

    @property
    def messages(self) -> list[Message]:
        """The main conversation in the format of SFT's data."""
        return _messages(self.system, self.main.exchanges)

    def set_system(self, text: str) -> None:
        """Change the system prompt; a blank one means none."""
        self.system = _without_surrogates(text) if text.strip() else None

    def forget(self) -> None:
        """Start a new conversation with the same system prompt."""
        self._replace([])

    def undo(self) -> str:
        """Remove the last turn and return its question. Raises ValueError if there is none."""
        question = self._need_turn()
        for side in self.sides:
            del side.exchanges[-1]
            side.last = None
        return question

    def load(self, messages: Sequence[Message]) -> None:
        """Take up a conversation in the format of SFT's data, ending with an answer."""
        system = [message["content"] for message in messages if message["role"] == "system"]
        turns = messages[len(system) :]
        self.system = system[0] if system else None
        self._replace(
            [
                Exchange(question["content"], _parts(answer["content"]))
                for question, answer in zip(turns[::2], turns[1::2], strict=True)
            ]
        )

    def change_model(self, speaker: Speaker) -> None:
        """Continue the main conversation with another model."""
        self.main.speaker = speaker

    @contextmanager
    def asking(self, question: str, *, again: bool = False) -> Iterator[list[Generation]]:
        """Begin an answer of each side to a question; `again`: instead of the last turn.

        What has been generated when the block ends, also by an exception, becomes a turn. The conversation stays
        as it was if that is nothing.
        Raises ValueError for a blank question, and if it does not fit into a context.
        """
        question = _without_surrogates(question)
        if not question.strip():
            raise ValueError("the question is empty")
        if again:
            self._need_turn()
        params = self.params
        if params.seed is None:
            params = replace(params, seed=secrets.randbits(_SEED_BITS))
        generations: list[Generation] = []
        try:
            for side in self.sides:
                before = side.exchanges[:-1] if again else side.exchanges
                generations.append(_generation(side.speaker, self.system, before, question, params))
            yield generations
        finally:
            for generation in generations:
                generation.close()
            if any(generation.events for generation in generations):
                self._keep(question, generations, again)

    def _keep(self, question: str, generations: Sequence[Generation], again: bool) -> None:
        for side, generation in zip(self.sides, generations, strict=True):
            if again:
                del side.exchanges[-1]
            side.exchanges.append(Exchange(question, generation.reply().parts))
            side.last = generation

    def _replace(self, exchanges: Sequence[Exchange]) -> None:
        for side in self.sides:
            side.exchanges, side.last = list(exchanges), None

    def _need_turn(self) -> str:
        if self.last_question is None:
            raise ValueError("nothing has been asked yet")
        return self.last_question

    def context_tokens(self, side: Side) -> int:
        """Tokens of a side's conversation, were it not shortened to fit."""
        messages = _messages(self.system, side.exchanges)
        return len(render(side.speaker.engine.tokenizer, {"messages": messages})[0]) if side.exchanges else 0


def _generation(
    speaker: Speaker,
    system: str | None,
    exchanges: Sequence[Exchange],
    question: str,
    params: SamplingParams,
) -> Generation:
    """A new answer; turns that do not fit are left out of its prompt. Raises ValueError as `asking`."""
    engine = speaker.engine
    limit = engine.max_seq_len - min(params.max_new_tokens, engine.max_seq_len // 2)
    # The first turn and the latest ones, and of these no more than could fit: a long chat stays quick.
    latest = exchanges[1:][-(limit // _LEAST_TOKENS_OF_A_TURN + 1) :]
    messages = _messages(system, [*exchanges[:1], *latest])
    kept = fit_messages(
        [*messages, {"role": "user", "content": question}],
        lambda shorter: len(render_prompt(engine.tokenizer, shorter)),
        limit,
    )
    turns = sum(message["role"] == "assistant" for message in kept)
    return Generation(speaker, render_prompt(engine.tokenizer, kept), params, len(exchanges) - turns)


def _messages(system: str | None, exchanges: Sequence[Exchange]) -> list[Message]:
    messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    for exchange in exchanges:
        messages.append({"role": "user", "content": exchange.question})
        messages.append({"role": "assistant", "content": exchange.content})
    return messages


def _parts(content: str | Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    return (
        [{"type": "text", "text": content}] if isinstance(content, str) else [dict(part) for part in content]
    )


def _without_surrogates(text: str) -> str:
    """`text` with U+FFFD for what is no character: an undecodable byte of a command line or a terminal."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
