"""The endpoints of the web page: tokens one by one, distributions, surprise. Not OpenAI's."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from starlette.requests import Request
from starlette.responses import Response

from nanochat import __version__
from nanochat.infer.request import end_tokens
from nanochat.infer.sampler import MAX_LOGPROBS
from nanochat.model.gpt import GPT
from nanochat.serve.channel import NewEvents
from nanochat.serve.completions import prompt_of_chat
from nanochat.serve.faults import invalid, json_response
from nanochat.serve.limits import read_json
from nanochat.serve.openai_schema import GenerateBody, NextBody, ScoreBody, TokensBody, decode
from nanochat.serve.pool import ServedModel
from nanochat.serve.prompts import (
    TokenStream,
    characters_of,
    chat_stream,
    check_given,
    check_ids,
    check_reply,
    described,
    text_stream,
    tokenised,
    too_long,
)
from nanochat.serve.service import Service, sampling
from nanochat.serve.streaming import EventStream, complete_stream
from nanochat.tokenizer.tokenizer import Tokenizer

_SCORE_RIVALS = 5
_LOGITS_POSITIONS = 128  # at once: the logits of a whole context would take much memory
_SEED_BITS = 32  # JavaScript's numbers are exact up to 53
_PARTS = {"text": "text", "python": "python", "python_output": "output"}


@dataclass(frozen=True)
class TokenEvents:
    """The answer of `/api/generate`: an object per token. A Renderer."""

    tokenizer: Tokenizer
    prompt: list[int]
    seed: int

    def opening(self) -> list[dict[str, Any]]:
        """The prompt's tokens and the seed."""
        return [{"prompt": described(self.tokenizer, self.prompt), "seed": self.seed}]

    def chunks(self, batch: NewEvents) -> list[dict[str, Any]]:
        """Every new token."""
        names = self.tokenizer.special_names
        return [
            {
                "id": event.token,
                "text": event.text,
                "part": _PARTS[event.part],
                "forced": event.forced,
                "special": names.get(event.token),
                "logprob": event.logprobs.logprob if event.logprobs else None,
                "top": self._rivals(event.logprobs.top, names) if event.logprobs else [],
                "finished": event.finished,
            }
            for event in batch[0]
        ]

    def closing(self) -> list[dict[str, Any]]:
        """Nothing."""
        return []

    def _rivals(self, top: Sequence[tuple[int, float]], names: Mapping[int, str]) -> list[dict[str, Any]]:
        decode = self.tokenizer.decode
        return [
            {"id": token, "text": decode([token]), "special": names.get(token), "logprob": value}
            for token, value in top
        ]


class Lab:
    """The endpoints below `/api` that ask a model."""

    def __init__(self, service: Service):
        self._service = service

    async def info(self, request: Request) -> Response:
        """`GET /api/info`: the server's defaults and limits."""
        service, defaults = self._service, self._service.defaults
        async with service.model(None) as served:
            context = served.worker.max_seq_len
        longest = service.limits.max_tokens
        return json_response(
            {
                "version": __version__,
                "default_model": service.default_model,
                "defaults": {
                    "temperature": defaults.temperature,
                    "top_k": defaults.top_k,
                    "top_p": defaults.top_p,
                    "min_p": defaults.min_p,
                    "repetition_penalty": defaults.repetition_penalty,
                    "max_tokens": min(defaults.max_new_tokens, longest or context),
                    "system": service.system,
                },
                "limits": {
                    "max_tokens": min(longest or context, context),
                    "context": context,
                    "top_logprobs": MAX_LOGPROBS,
                    "body_bytes": service.limits.body_bytes,
                },
                "device": service.pool.device,
            }
        )

    async def generate(self, request: Request) -> Response:
        """`POST /api/generate`: one answer as a stream of tokens, each with its probability and rivals."""
        limits = self._service.limits
        body = decode(GenerateBody, await read_json(request, limits))
        if not 0 <= body.top_logprobs <= MAX_LOGPROBS:
            raise invalid(
                f"top_logprobs must be 0 to {MAX_LOGPROBS}, not {body.top_logprobs}", param="top_logprobs"
            )
        params = sampling(body, self._service)
        seed = secrets.randbits(_SEED_BITS) if params.seed is None else params.seed
        params = replace(params, seed=seed, logprobs=body.top_logprobs)
        async with self._service.model(body.model) as served:
            tokenizer = served.tokenizer
            check_ids(body.reply_ids, tokenizer, "reply_ids")
            before = await self._prompt(body, served)
            prompt = [*before, *body.reply_ids]
            if len(prompt) > served.worker.max_seq_len:
                raise too_long(len(prompt), served.worker.max_seq_len, "messages")
            answer = TokenEvents(tokenizer, prompt, seed)
            if end_tokens(tokenizer).intersection(body.reply_ids[-1:]):
                return complete_stream(answer.opening())
            check_reply(len(before), body.reply_ids, tokenizer, served.worker.max_seq_len)
            channel = served.worker.answer([(prompt, params)], len(body.reply_ids))
        return EventStream(channel, answer, limits.seconds)

    async def _prompt(self, body: GenerateBody, served: ServedModel) -> list[int]:
        if body.ids is not None:
            check_given(body.ids, served.tokenizer)
            return body.ids
        if body.messages is not None:
            return await prompt_of_chat(served, body.messages, self._service.limits)
        if body.text is not None:
            return (await _document(served.tokenizer, body.text)).ids
        raise invalid("give messages, text or ids", param="messages", code="missing_required_parameter")

    async def next(self, request: Request) -> Response:
        """`POST /api/next`: the likeliest tokens after `ids`, with logits before any sampling setting."""
        body = decode(NextBody, await read_json(request, self._service.limits))
        async with self._service.model(body.model) as served:
            tokenizer = served.tokenizer
            if not 1 <= body.top <= tokenizer.vocab_size:
                raise invalid(f"top must be 1 to {tokenizer.vocab_size}, not {body.top}", param="top")
            check_given(body.ids, tokenizer)
            if len(body.ids) > served.worker.max_seq_len:
                raise too_long(len(body.ids), served.worker.max_seq_len, "ids")
            ids, logprobs, logits = await served.worker.compute(
                lambda model: next_token(model, body.ids, body.top)
            )

        def response() -> Response:
            tokens = [
                {"id": token, "text": tokenizer.decode([token]), "logprob": logprob}
                for token, logprob in zip(ids, logprobs, strict=True)
            ]
            return json_response({"tokens": tokens, "logits": logits})

        return await tokenised(10 * body.top, response)  # a whole vocabulary takes a while

    async def score(self, request: Request) -> Response:
        """`POST /api/score`: how many bits each token of a text costs, given those before it."""
        body = decode(ScoreBody, await read_json(request, self._service.limits))
        async with self._service.model(body.model) as served:
            tokenizer = served.tokenizer
            stream = await self._listed(tokenizer, body.text)
            scored: list[ScoredToken] = []
            for start, stop, fresh in windows(len(stream.ids), served.worker.max_seq_len):
                score = partial(score_tokens, ids=stream.ids[start:stop], fresh=fresh)
                scored += await served.worker.compute(score)  # answers go on between two windows
        return json_response(_surprise(tokenizer, stream.ids, scored))

    async def tokens(self, request: Request) -> Response:
        """`POST /api/tokens`: the true token stream, with what training supervises."""
        limits = self._service.limits
        body = decode(TokensBody, await read_json(request, limits))
        async with self._service.model(body.model) as served:
            tokenizer, messages = served.tokenizer, body.messages
            if messages is not None:
                if len(messages) > limits.messages:
                    raise invalid(f"at most {limits.messages} messages, not {len(messages)}", "messages")
                stream = await tokenised(characters_of(messages), lambda: chat_stream(tokenizer, messages))
                self._check_length(stream, "messages")
            elif body.text is not None:
                stream = await self._listed(tokenizer, body.text)
            else:
                raise invalid("give messages or text", param="messages", code="missing_required_parameter")
        listed = zip(described(tokenizer, stream.ids), stream.mask, strict=True)
        return json_response({"tokens": [{**token, "supervised": bool(mask)} for token, mask in listed]})

    async def _listed(self, tokenizer: Tokenizer, text: str) -> TokenStream:
        """A text's tokens, of which every one will be in the response."""
        if not text:
            raise invalid("text is empty", param="text")
        stream = await _document(tokenizer, text)
        self._check_length(stream, "text")
        return stream

    def _check_length(self, stream: TokenStream, param: str) -> None:
        most = self._service.limits.score_tokens
        if len(stream.ids) > most:
            raise invalid(
                f"{param}: {len(stream.ids)} tokens, and at most {most} are scored or listed: shorten it",
                param=param,
                code="context_length_exceeded",
            )


async def _document(tokenizer: Tokenizer, text: str) -> TokenStream:
    return await tokenised(len(text), lambda: text_stream(tokenizer, text))


def next_token(model: GPT, ids: Sequence[int], top: int) -> tuple[list[int], list[float], list[float]]:
    """(ids, log-probabilities, logits) of the `top` likeliest tokens after `ids`, best first."""
    device = model.head.weight.device
    logits_V = model.logits(model(torch.tensor([ids], device=device))[0, -1])
    best = logits_V.topk(top)
    logprobs = logits_V.log_softmax(dim=-1)[best.indices]
    return best.indices.tolist(), logprobs.tolist(), best.values.tolist()


@dataclass(frozen=True)
class ScoredToken:
    """A token's log-probability given those before it, and the likeliest tokens there, best first."""

    logprob: float
    top: list[tuple[int, float]]


def windows(count: int, context: int) -> Iterator[tuple[int, int, int]]:
    """(start, stop, fresh) of pieces of `count` tokens that a model of this context can score, where the `fresh`
    first positions have been scored with the piece before.

    They overlap by half, so that every token beyond the first piece sees at least half a context before it.
    """
    start = done = 0  # `done` predictions, of the tokens from 1 on
    while done < count - 1:
        stop = min(start + context + 1, count)
        yield start, stop, done - start
        done = stop - 1
        start = done - context // 2


def score_tokens(model: GPT, ids: Sequence[int], fresh: int) -> list[ScoredToken]:
    """All tokens after the first `fresh` + 1."""
    window = torch.tensor(ids, device=model.head.weight.device)
    hidden_TC = model(window[None, :-1])[0]
    scored: list[ScoredToken] = []
    for start in range(fresh, len(ids) - 1, _LOGITS_POSITIONS):
        logprobs_TV = model.logits(hidden_TC[start : start + _LOGITS_POSITIONS]).log_softmax(dim=-1)
        own = logprobs_TV.gather(1, window[start + 1 :][: len(logprobs_TV), None])[:, 0].tolist()
        best = logprobs_TV.topk(min(_SCORE_RIVALS, logprobs_TV.size(1)), dim=-1)
        for logprob, tokens, values in zip(own, best.indices.tolist(), best.values.tolist(), strict=True):
            scored.append(ScoredToken(logprob, list(zip(tokens, values, strict=True))))
    return scored


def _surprise(tokenizer: Tokenizer, ids: Sequence[int], scored: Sequence[ScoredToken]) -> dict[str, Any]:
    tokens, total_bits, total_bytes = [], 0.0, 0
    for token, score in zip(ids[1:], scored, strict=True):
        raw = tokenizer.decode_bytes([token])
        bits = -score.logprob / math.log(2)
        total_bits += bits
        total_bytes += len(raw)
        tokens.append(
            {
                "id": token,
                "text": raw.decode("utf-8", errors="replace"),
                "bytes": list(raw),
                "logprob": score.logprob,
                "bits": bits,
                "top": [
                    {"id": rival, "text": tokenizer.decode([rival]), "logprob": value}
                    for rival, value in score.top
                ],
            }
        )
    return {"tokens": tokens, "bits_per_byte": total_bits / total_bytes}
