"""What clients receive: OpenAI's objects, whole or in chunks, from the engine's events."""

from __future__ import annotations

import codecs
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nanochat.infer.request import Event
from nanochat.infer.sampler import TokenLogprobs
from nanochat.serve.channel import NewEvents
from nanochat.tokenizer.special import OUTPUT_END, PYTHON_START
from nanochat.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Heading:
    """What is the same in all chunks of an answer."""

    model: str
    fingerprint: str
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    def fields(self, prefix: str, kind: str) -> dict[str, Any]:
        """The fields common to all objects."""
        return {
            "id": f"{prefix}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


@dataclass
class Delta:
    """What some events of one sample add to its answer."""

    text: str = ""
    tools: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    finish: str | None = None


class ChoiceReader:
    """Reads one sample's events: the text of the answer, tool calls that were run, log-probabilities."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._special = tokenizer.special_names
        self._call: dict[str, Any] | None = None
        self._length = 0  # of the text so far, in characters
        self.text = ""
        self.tools: list[dict[str, Any]] = []
        self.logprobs: list[dict[str, Any]] = []
        self.finish: str | None = None
        self.tokens = 0

    def read(self, events: Sequence[Event]) -> Delta:
        """Take further events. A sample's last one is the last of its batch."""
        delta, texts = Delta(), []
        for event in events:
            if event.part != "text":
                self._read_tool(event, delta)
                continue
            texts.append(event.text)
            self._length += len(event.text)
            if event.token in self._special:
                if self._special[event.token] == PYTHON_START:
                    self._call = {"type": "python", "arguments": "", "output": None, "offset": self._length}
            elif event.logprobs is not None:
                delta.logprobs.append(self._logprobs(event.token, event.logprobs))
        delta.text = "".join(texts)
        delta.finish = events[-1].finished
        if delta.finish and self._call is not None:  # cut off, at the latest within its output
            delta.tools.append({**self._call, "output": None})
        self.tokens += len(events)
        self.text += delta.text
        self.tools += delta.tools
        self.logprobs += delta.logprobs
        self.finish = delta.finish
        return delta

    def _read_tool(self, event: Event, delta: Delta) -> None:
        call = self._call
        if call is None:  # an output without a call, which a model may write
            return
        if event.part == "python":
            call["arguments"] += event.text
            return
        call["output"] = (call["output"] or "") + event.text
        if self._special.get(event.token) == OUTPUT_END:
            delta.tools.append(call)
            self._call = None

    def _logprobs(self, token: int, found: TokenLogprobs) -> dict[str, Any]:
        top = [self._logprob(rival, value) for rival, value in found.top]
        return {**self._logprob(token, found.logprob), "top_logprobs": top}

    def _logprob(self, token: int, logprob: float) -> dict[str, Any]:
        raw = self._tokenizer.decode_bytes([token])
        return {"token": raw.decode("utf-8", errors="replace"), "logprob": logprob, "bytes": list(raw)}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """The tokens of a request."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


@dataclass
class ChatAnswer:
    """`POST /v1/chat/completions`: `samples` answers to one prompt. Also a Renderer."""

    heading: Heading
    tokenizer: Tokenizer
    samples: int
    prompt_tokens: int
    include_usage: bool
    logprobs: bool

    def __post_init__(self) -> None:
        self._readers = [ChoiceReader(self.tokenizer) for _ in range(self.samples)]

    def whole(self, batch: NewEvents) -> dict[str, Any]:
        """The answer in one object."""
        for index, events in batch.items():
            self._readers[index].read(events)
        choices = []
        for index, reader in enumerate(self._readers):
            message: dict[str, Any] = {"role": "assistant", "content": reader.text, "refusal": None}
            if reader.tools:
                message["executed_tools"] = reader.tools
            choices.append(self._choice(index, "message", message, reader.logprobs, reader.finish))
        fields = self.heading.fields("chatcmpl", "chat.completion")
        return {**fields, "choices": choices, "usage": self._usage()}

    def opening(self) -> list[dict[str, Any]]:
        """The role of every choice."""
        return [self._chunk(index, {"role": "assistant", "content": ""}) for index in range(self.samples)]

    def chunks(self, batch: NewEvents) -> list[dict[str, Any]]:
        """New content, tool calls, and the end of a choice."""
        found = []
        for index, events in batch.items():
            delta = self._readers[index].read(events)
            fields: dict[str, Any] = {}
            if delta.text or delta.logprobs:
                fields["content"] = delta.text
            if delta.tools:
                fields["executed_tools"] = delta.tools
            if fields:
                found.append(self._chunk(index, fields, delta.logprobs))
            if delta.finish:
                found.append(self._chunk(index, {}, finish=delta.finish))
        return found

    def closing(self) -> list[dict[str, Any]]:
        """The usage, if it was asked for."""
        if not self.include_usage:
            return []
        fields = self.heading.fields("chatcmpl", "chat.completion.chunk")
        return [{**fields, "choices": [], "usage": self._usage()}]

    def _usage(self) -> dict[str, int]:
        return usage(self.prompt_tokens, sum(reader.tokens for reader in self._readers))

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        logprobs: list[dict[str, Any]] | None = None,
        finish: str | None = None,
    ) -> dict[str, Any]:
        choice = self._choice(index, "delta", delta, logprobs or [], finish)
        fields = self.heading.fields("chatcmpl", "chat.completion.chunk")
        return {**fields, "choices": [choice], **({"usage": None} if self.include_usage else {})}

    def _choice(
        self,
        index: int,
        name: str,
        content: dict[str, Any],
        logprobs: list[dict[str, Any]],
        finish: str | None,
    ) -> dict[str, Any]:
        shown = {"content": logprobs, "refusal": None} if self.logprobs and logprobs else None
        return {"index": index, name: content, "logprobs": shown, "finish_reason": finish}


@dataclass
class TextAnswer:
    """`POST /v1/completions`: some samples of each prompt, prompt by prompt. Also a Renderer."""

    heading: Heading
    tokenizer: Tokenizer
    echoes: Sequence[str]
    """What each choice's text starts with: its prompt, if the request wants it back."""
    prompt_tokens: int
    include_usage: bool
    top_logprobs: int | None

    def __post_init__(self) -> None:
        self._readers = [ChoiceReader(self.tokenizer) for _ in self.echoes]
        self._offsets = [len(echo) for echo in self.echoes]
        decoder = codecs.getincrementaldecoder("utf-8")
        self._decoders = [decoder("replace") for _ in self.echoes]

    def whole(self, batch: NewEvents) -> dict[str, Any]:
        """The answer in one object."""
        for index, events in batch.items():
            self._readers[index].read(events)
        choices = [
            self._choice(index, echo + reader.text, reader.logprobs, reader.finish)
            for index, (echo, reader) in enumerate(zip(self.echoes, self._readers, strict=True))
        ]
        return {**self._fields(), "choices": choices, "usage": self._usage()}

    def opening(self) -> list[dict[str, Any]]:
        """The prompts, if they were asked for."""
        return [
            self._chunk(self._choice(index, echo, [], None)) for index, echo in enumerate(self.echoes) if echo
        ]

    def chunks(self, batch: NewEvents) -> list[dict[str, Any]]:
        """New text, and the end of a choice."""
        found = []
        for index, events in batch.items():
            delta = self._readers[index].read(events)
            if delta.text or delta.logprobs or delta.finish:
                found.append(self._chunk(self._choice(index, delta.text, delta.logprobs, delta.finish)))
        return found

    def closing(self) -> list[dict[str, Any]]:
        """The usage, if it was asked for."""
        return [{**self._fields(), "choices": [], "usage": self._usage()}] if self.include_usage else []

    def _fields(self) -> dict[str, Any]:
        return self.heading.fields("cmpl", "text_completion")

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        return {
            **self._fields(),
            "choices": [choice],
            **({"usage": None} if self.include_usage else {}),
        }

    def _usage(self) -> dict[str, int]:
        return usage(self.prompt_tokens, sum(reader.tokens for reader in self._readers))

    def _choice(
        self, index: int, text: str, logprobs: Sequence[dict[str, Any]], finish: str | None
    ) -> dict[str, Any]:
        table = None
        if self.top_logprobs is not None and logprobs:
            table = self._logprobs(index, logprobs)
        return {"index": index, "text": text, "logprobs": table, "finish_reason": finish}

    def _logprobs(self, index: int, logprobs: Sequence[dict[str, Any]]) -> dict[str, Any]:
        offsets = []
        for entry in logprobs:
            offsets.append(self._offsets[index])
            self._offsets[index] += len(self._decoders[index].decode(bytes(entry["bytes"])))
        tops = [{_key(top["bytes"]): top["logprob"] for top in entry["top_logprobs"]} for entry in logprobs]
        return {
            "tokens": [_key(entry["bytes"]) for entry in logprobs],
            "token_logprobs": [entry["logprob"] for entry in logprobs],
            "top_logprobs": tops if self.top_logprobs else None,
            "text_offset": offsets,
        }


def _key(raw: Sequence[int]) -> str:
    """A token's text; of one that is no valid UTF-8, `bytes:` and it with escapes, so that no two are alike."""
    try:
        return bytes(raw).decode()
    except UnicodeDecodeError:
        return "bytes:" + bytes(raw).decode(errors="backslashreplace")
