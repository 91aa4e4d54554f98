"""A request in the engine: its tokens, and everything decided from them without tensors."""

import secrets
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from nanochat.infer.sampler import SamplingParams, TokenLogprobs, uniform
from nanochat.infer.tools import ToolTable, ToolUse
from nanochat.tokenizer.chat_format import ReplyPart
from nanochat.tokenizer.special import ASSISTANT_END
from nanochat.tokenizer.tokenizer import Tokenizer

FinishReason = Literal["stop", "length"]


class Event(NamedTuple):
    """One new token of a request, and the text that it completes."""

    request_id: int
    token: int
    forced: bool
    """The token was forced by a tool, not sampled from the model."""
    finished: FinishReason | None
    """`stop`: the model ended its answer or a stop string occurred; `length`: a token limit was reached."""
    part: ReplyPart
    """What `text` belongs to: the answer, the code of a tool call, or the tool's output."""
    text: str
    """Whole characters without special tokens; may be empty, and may include text of earlier tokens."""
    logprobs: TokenLogprobs | None = None
    """Of a sampled token, if the request asked for them."""


@dataclass(frozen=True)
class Completion:
    """All new tokens of a finished request, including the last one."""

    ids: list[int]
    forced_mask: list[bool]
    """True for tokens forced by a tool."""
    finish_reason: FinishReason
    text: str
    """The answer, without tool calls, tool outputs, special tokens, and the stop string and what follows it."""
    logprobs: list[TokenLogprobs | None]
    """One per id; None for forced tokens, and if the request did not ask for them."""


def end_tokens(tokenizer: Tokenizer) -> set[int]:
    """The tokens that end an answer."""
    return {tokenizer.special(ASSISTANT_END), tokenizer.bos}


class Request:
    """A prompt and the answer generated so far.

    `reply`: how many of the prompt's last tokens are the beginning of the answer, so that a tool call or a character
    that is open at their end is completed, and a call that ends there is answered, as is one whose output ends there
    unfinished.

    Raises ValueError for an empty prompt, a prompt that leaves no room for an answer within `max_seq_len` tokens,
    and ids outside the vocabulary, also in `logit_bias`.
    """

    def __init__(
        self,
        request_id: int,
        prompt: Sequence[int],
        params: SamplingParams,
        tokenizer: Tokenizer,
        tools: ToolTable,
        max_seq_len: int,
        reply: int = 0,
    ):
        if not prompt:
            raise ValueError("the prompt is empty: it needs at least <|bos|>")
        if len(prompt) >= max_seq_len:
            raise ValueError(
                f"the prompt has {len(prompt)} tokens, but prompt and answer together may have {max_seq_len}: "
                "shorten the prompt"
            )
        if not all(0 <= token < tokenizer.vocab_size for token in prompt):
            raise ValueError(
                f"the prompt has ids outside the tokenizer's vocabulary of {tokenizer.vocab_size}"
            )
        if any(token >= tokenizer.vocab_size for token, _ in params.logit_bias):
            raise ValueError(
                f"logit_bias has ids outside the tokenizer's vocabulary of {tokenizer.vocab_size}"
            )
        self.id = request_id
        self.params = params
        self.tokens = list(prompt)
        self.cached = 0
        """Number of tokens whose keys and values are in the cache, always fewer than all."""
        self._prompt_length = len(prompt)
        self._max_seq_len = min(max_seq_len, len(prompt) + params.max_new_tokens)
        self._seed = secrets.randbits(64) if params.seed is None else params.seed
        self._ends = end_tokens(tokenizer)
        self._specials = frozenset(tokenizer.special_ids.values())
        self._decoder = tokenizer.stream()
        self._stops = StopStrings(params.stop)
        self._tools = ToolUse(tools, tokenizer)
        self._due: deque[int] = deque()
        self._forced: list[bool] = []
        self._logprobs: list[TokenLogprobs | None] = []
        self._answer: list[str] = []
        self._finished: FinishReason | None = None
        self._early: list[Event] = []
        """What the output of the last call in the beginning of the answer lacks."""
        beginning = self.tokens[len(prompt) - reply :]
        output = self._tools.begin(beginning)
        for token in beginning:
            if token in self._specials:
                self._decoder.flush()
            else:
                self._decoder.push(token)
        for token in output[: self._max_seq_len - len(self.tokens) - 1]:  # the model chooses one, at least
            self._early.append(self._append(token, None, forced=True))

    @property
    def remaining(self) -> int:
        """How many tokens the model has not seen: first the prompt, then the latest token and a tool's output."""
        return len(self.tokens) - self.cached

    @property
    def finished(self) -> bool:
        """Whether the answer is complete."""
        return self._finished is not None

    def uniforms(self, most: int = 1) -> list[float]:
        """Random numbers in [0, 1) for sampling the next tokens, 0 if none are needed.

        As many as tokens can be chosen before their text decides whether the answer ends, up to `most`.
        """
        count = 1 if self.params.stop else min(most, self._max_seq_len - len(self.tokens))
        if self.params.greedy:
            return [0.0] * count
        first = len(self.tokens) - self._prompt_length
        return [uniform(self._seed, index) for index in range(first, first + count)]

    def accept(self, sampled: int, logprobs: TokenLogprobs | None = None) -> list[Event]:
        """Append the token sampled after all others, and the tool's output if it ends a call: an event for each."""
        self.cached = len(self.tokens)
        events, self._early = [*self._early, self._append(sampled, logprobs)], []
        while self._due and self._finished is None:
            events.append(self._append(self._due.popleft(), None, forced=True))
        return events

    def accept_all(self, sampled: Sequence[int], logprobs: Sequence[TokenLogprobs | None]) -> list[Event]:
        """As `accept` for each token; only the last may be special, or end the answer.

        Text that the others complete is in the event of the last of them.
        """
        *plain, last = sampled
        events: list[Event] = []
        if plain:
            assert not self.params.stop, "a stop string may end the answer at any token"
            self.tokens += plain
            part = self._tools.push_plain(plain)
            text = self._decoder.push(*plain)
            if part == "text":
                self._answer.append(text)
            self._forced += [False] * len(plain)
            self._logprobs += logprobs[:-1]
            texts = [""] * (len(plain) - 1) + [text]
            events = [
                Event(self.id, token, False, None, part, own, found)
                for token, own, found in zip(plain, texts, logprobs, strict=False)
            ]
        return events + self.accept(last, logprobs[-1])

    def _append(self, token: int, logprobs: TokenLogprobs | None, *, forced: bool = False) -> Event:
        self.tokens.append(token)
        part, following = self._tools.push(token)
        if following:
            self._due.extend(following)
        text, stopped = self._read(token, part)
        if stopped or token in self._ends:
            self._finished = "stop"
        elif len(self.tokens) >= self._max_seq_len:
            self._finished = "length"
            text += self._stops.flush() + self._decoder.flush()
        self._forced.append(forced)
        self._logprobs.append(logprobs)
        if part == "text":
            self._answer.append(text)
        return Event(self.id, token, forced, self._finished, part, text, logprobs)

    def _read(self, token: int, part: ReplyPart) -> tuple[str, bool]:
        """(text that the token completes, whether a stop string ends the answer there)."""
        special = token in self._specials
        text = self._decoder.flush() if special else self._decoder.push(token)
        if part != "text" or not self.params.stop:
            return text, False
        text, stopped = self._stops.push(text)
        if special and not stopped:
            text += self._stops.flush()
        return text, stopped

    def completion(self) -> Completion:
        """Everything that was answered; the request must be finished."""
        assert self._finished is not None, "the request is still running"
        ids = self.tokens[self._prompt_length :]
        return Completion(ids, self._forced, self._finished, "".join(self._answer), self._logprobs)


class StopStrings:
    """Finds stop strings in text that arrives in pieces; holds back text that may be the start of one."""

    def __init__(self, stops: tuple[str, ...]):
        self._stops = stops
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Add text. Returns (text safe to show, whether a stop string was found); text after it is dropped."""
        if not self._stops:
            return text, False
        text = self._held + text
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self._held = ""
            return text[: min(found)], True
        beginnings = (stop[:n] for stop in self._stops for n in range(1, len(stop)))
        held = max((len(beginning) for beginning in beginnings if text.endswith(beginning)), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held], False

    def flush(self) -> str:
        """The text held back, which no stop string completed."""
        held, self._held = self._held, ""
        return held
