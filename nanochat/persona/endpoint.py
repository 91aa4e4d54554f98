"""More varied conversations through an OpenAI-compatible endpoint: questions reworded, replies in the persona's voice.

Whatever the endpoint's model writes is checked, and replaced by the offline text where it fails: a question must be one
short line that is not held out, a reply one short paragraph with the name or the maker if the question asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx

from nanochat.config import parse_json
from nanochat.console import progress
from nanochat.errors import EnvironmentFault
from nanochat.hub.retry import IncompleteError, RetryPolicy, retrying
from nanochat.persona.conversations import Asked, Spoken, is_held_out
from nanochat.persona.persona import Persona

_TIMEOUT_S = 120.0
_PATIENCE = RetryPolicy(attempts=6)
_AT_ONCE = 8
_LONGEST = 300
_MAX_TOKENS = 120

_SYSTEM = (
    "You are {name}, {kind}. You were made by {maker}, {origin}. You are {traits}. You speak {languages}. "
    "You can {abilities}. You cannot {limits}. Answer in one or two short sentences, as {name}, and invent nothing."
)
_REWORD = "Write this question in other words, as a person would type it in a chat. Write only the question: {question}"


@dataclass(frozen=True)
class Endpoint:
    """`base` is the address up to /v1."""

    base: str
    model: str
    key: str = ""

    def ask(self, client: httpx.Client, messages: Sequence[dict[str, str]]) -> str:
        """The reply's text; a busy endpoint is asked again. Raises EnvironmentFault unless it answers as OpenAI's."""
        address = f"{self.base.rstrip('/')}/chat/completions"
        body = {
            "model": self.model,
            "messages": list(messages),
            "max_tokens": _MAX_TOKENS,
            "temperature": 1.0,
        }
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}

        def attempt() -> httpx.Response:
            try:
                answer = client.post(address, json=body, headers=headers)
            except httpx.ConnectError as error:  # nobody is there: most often a wrong address
                raise EnvironmentFault(f"{address} does not answer: {error}") from error
            except httpx.HTTPError as error:
                raise IncompleteError(str(error) or type(error).__name__) from error
            if _is_busy(answer.status_code):
                raise IncompleteError(f"HTTP {answer.status_code} {answer.reason_phrase}")
            return answer

        answer = retrying(attempt, address, _PATIENCE)
        if answer.status_code != 200:
            said = " ".join(answer.text.split())[:200]
            raise EnvironmentFault(f"{address} answers {answer.status_code}: {said}")
        try:
            text = parse_json(answer.content)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError) as error:
            raise EnvironmentFault(
                f"{address} does not answer as an OpenAI-compatible endpoint does"
            ) from error
        return text if isinstance(text, str) else ""


def _is_busy(status: int) -> bool:
    return status == httpx.codes.TOO_MANY_REQUESTS or httpx.codes.is_server_error(status)


@dataclass(frozen=True)
class Varied:
    """Conversations, and how many questions and replies the endpoint gave and how many of them were usable."""

    conversations: list[list[Spoken]]
    written: int
    kept: int


def vary(
    conversations: Sequence[list[Spoken]],
    persona: Persona,
    endpoint: Endpoint,
    transport: httpx.BaseTransport | None = None,
) -> Varied:
    """The conversations with questions and replies by the endpoint where they are usable, in the same order."""
    with (
        httpx.Client(timeout=_TIMEOUT_S, transport=transport) as client,
        ThreadPoolExecutor(_AT_ONCE) as threads,
        progress("conversations", len(conversations), "conversations") as shown,
    ):
        made: list[tuple[list[Spoken], int]] = []
        for varied in threads.map(lambda turns: _varied(turns, persona, endpoint, client), conversations):
            made.append(varied)
            shown.update(len(made))
    kept = sum(kept for _, kept in made)
    written = 2 * sum(asked is not None for turns in conversations for _, _, asked in turns)
    return Varied([turns for turns, _ in made], written, kept)


def _varied(
    turns: list[Spoken], persona: Persona, endpoint: Endpoint, client: httpx.Client
) -> tuple[list[Spoken], int]:
    result: list[Spoken] = []
    kept = 0
    for question, reply, asked in turns:
        if asked is not None:
            new = endpoint.ask(client, [_message("user", _REWORD.format(question=question))])
            new = new.strip().strip('"')
            if _usable_question(new):
                question, kept = new, kept + 1
            system = _message("system", persona.fill(_SYSTEM))
            new = endpoint.ask(client, [system, _message("user", question)])
            if _usable_reply(new, persona, asked):
                reply, kept = new.strip(), kept + 1
        result.append((question, reply, asked))
    return result, kept


def _message(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def _usable_question(text: str) -> bool:
    return _short(text) and not is_held_out(text)


def _usable_reply(text: str, persona: Persona, asked: Asked) -> bool:
    return _short(text) and (asked.topic.key is None or getattr(persona, asked.topic.key) in text)


def _short(text: str) -> bool:
    text = text.strip()
    return 0 < len(text) <= _LONGEST and text.isprintable()
