"""`/v1/chat/completions`, `/v1/completions` and `/tokenize`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response

from nanochat.infer.sampler import MAX_LOGPROBS, SamplingParams
from nanochat.serve.faults import invalid, json_response
from nanochat.serve.limits import Limits, read_json
from nanochat.serve.openai_answers import ChatAnswer, Heading, TextAnswer
from nanochat.serve.openai_schema import AnswerBody, ChatBody, ChatMessage, TextBody, TokenizeBody, decode
from nanochat.serve.pool import ServedModel
from nanochat.serve.prompts import (
    characters_of,
    chat_prompt,
    check_ids,
    tokenised,
    too_long,
)
from nanochat.serve.service import Service, sampling
from nanochat.serve.streaming import EventStream, collected

_CLIENT_LEFT = 499  # nginx's; nobody reads it but the log


class Completions:
    """The endpoints that generate text."""

    def __init__(self, service: Service):
        self._service = service

    async def chat(self, request: Request) -> Response:
        """`POST /v1/chat/completions`."""
        limits = self._service.limits
        body = decode(ChatBody, await read_json(request, limits))
        _check_chat(body, limits)
        params = _params(body, self._service)
        if body.logprobs or body.top_logprobs is not None:
            params = replace(params, logprobs=body.top_logprobs or 0)
        async with self._service.model(body.model) as served:
            prompt = await prompt_of_chat(served, body.messages, limits)
            answer = ChatAnswer(
                _heading(body, served),
                served.tokenizer,
                body.n,
                len(prompt),
                body.stream_options.include_usage,
                params.logprobs is not None,
            )
            return await self._respond(request, served, answer, [(prompt, params)], body)

    async def text(self, request: Request) -> Response:
        """`POST /v1/completions`."""
        limits = self._service.limits
        body = decode(TextBody, await read_json(request, limits))
        _check_answer(body, limits)
        if body.logprobs is not None and not 0 <= body.logprobs <= MAX_LOGPROBS:
            raise invalid(f"logprobs must be 0 to {MAX_LOGPROBS}, not {body.logprobs}", param="logprobs")
        if body.logprobs is not None and body.echo:
            raise invalid("log-probabilities of an echoed prompt are not available: use /api/score", "echo")
        params = replace(_params(body, self._service), logprobs=body.logprobs)
        async with self._service.model(body.model) as served:
            prompts = await _prompts(body, served, limits)
            for prompt in prompts:
                _check_room(served, prompt, "prompt")
            echoes = [served.tokenizer.decode(_without_bos(p, served)) if body.echo else "" for p in prompts]
            answer = TextAnswer(
                _heading(body, served),
                served.tokenizer,
                [echo for echo in echoes for _ in range(body.n)],
                sum(map(len, prompts)),
                body.stream_options.include_usage,
                body.logprobs,
            )
            return await self._respond(request, served, answer, [(p, params) for p in prompts], body)

    async def tokenize(self, request: Request) -> Response:
        """`POST /tokenize`."""
        limits = self._service.limits
        body = decode(TokenizeBody, await read_json(request, limits))
        async with self._service.model(body.model) as served:
            tokenizer, text = served.tokenizer, body.prompt
            if body.messages is not None:
                ids = await prompt_of_chat(served, body.messages, limits, fits=False)
            elif text is not None:
                ids = await tokenised(len(text), lambda: tokenizer.encode(text))
                ids = [tokenizer.bos, *ids] if body.add_special_tokens else ids
            else:
                raise invalid("give a prompt or messages", param="prompt")
            strings = await tokenised(len(ids), lambda: [tokenizer.decode([token]) for token in ids])
            context = served.worker.max_seq_len
        return json_response(
            {"count": len(ids), "max_model_len": context, "tokens": ids, "token_strs": strings}
        )

    async def _respond(
        self,
        request: Request,
        served: ServedModel,
        answer: ChatAnswer | TextAnswer,
        prompts: Sequence[tuple[list[int], SamplingParams]],
        body: AnswerBody,
    ) -> Response:
        check_ids([token for token, _ in prompts[0][1].logit_bias], served.tokenizer, "logit_bias")
        samples = [
            (prompt, params.for_sample(sample)) for prompt, params in prompts for sample in range(body.n)
        ]
        seconds = self._service.limits.seconds
        channel = served.worker.answer(samples)
        if body.stream:
            return EventStream(channel, answer, seconds)  # what it still generates keeps the model loaded
        events = await collected(channel, request.receive, seconds)
        return (
            json_response(answer.whole(events)) if events is not None else Response(status_code=_CLIENT_LEFT)
        )


async def prompt_of_chat(
    served: ServedModel, messages: Sequence[ChatMessage], limits: Limits, *, fits: bool = True
) -> list[int]:
    """The prompt of a chat with this model. Raises ApiFault for a base model, and unless it `fits` the context."""
    if served.card.kind == "base":
        raise invalid(
            f"{served.card.id} is a base model, which knows no chat format: use /v1/completions, or another model",
            param="model",
        )
    if len(messages) > limits.messages:
        raise invalid(f"at most {limits.messages} messages, not {len(messages)}", param="messages")
    prompt = await tokenised(characters_of(messages), lambda: chat_prompt(served.tokenizer, messages))
    if fits:
        _check_room(served, prompt, "messages")
    return prompt


async def _prompts(body: TextBody, served: ServedModel, limits: Limits) -> list[list[int]]:
    """The prompts of a text completion: texts, which get a <|bos|>, or ids, which are used as they are."""
    given = body.prompt
    if isinstance(given, str):
        given = [given]
    if not given:
        raise invalid("prompt is empty", param="prompt")
    listed: list[list[int]] = []
    if isinstance(given[0], int):
        given = [given]  # type: ignore[list-item]
    if len(given) * body.n > limits.samples:
        raise invalid(f"at most {limits.samples} answers (prompts times n) per request", param="n")
    for prompt in given:
        if isinstance(prompt, str):
            text: str = prompt
            ids = await tokenised(len(text), lambda text=text: served.tokenizer.encode(text))  # type: ignore[misc]
            listed.append([served.tokenizer.bos, *ids])
        else:
            assert isinstance(prompt, list)
            if not prompt:
                raise invalid("prompt: a list of ids is empty", param="prompt")
            check_ids(prompt, served.tokenizer, "prompt")
            listed.append(prompt)
    return listed


def _without_bos(prompt: list[int], served: ServedModel) -> list[int]:
    return prompt[1:] if prompt[0] == served.tokenizer.bos else prompt


def _check_room(served: ServedModel, prompt: Sequence[int], param: str) -> None:
    if len(prompt) >= served.worker.max_seq_len:
        raise too_long(len(prompt), served.worker.max_seq_len, param)


def _heading(body: AnswerBody, served: ServedModel) -> Heading:
    return Heading(served.card.id, served.card.checkpoint)


def _params(body: AnswerBody, service: Service) -> SamplingParams:
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    params = sampling(body, service, body.max_completion_tokens)
    try:
        bias = tuple((int(token), value) for token, value in body.logit_bias.items())
        return replace(params, stop=stop, logit_bias=bias)
    except ValueError as error:
        param = "stop" if "stop" in str(error) else "logit_bias"
        raise invalid(str(error), param=param) from None


def _check_answer(body: AnswerBody, limits: Limits) -> None:
    if not 1 <= body.n <= limits.samples:
        raise invalid(f"n must be 1 to {limits.samples}, not {body.n}", param="n")
    stops = body.stop if isinstance(body.stop, list) else [body.stop or ""]
    if len(stops) > limits.stops or sum(map(len, stops)) > limits.stop_characters:
        raise invalid(
            f"stop takes at most {limits.stops} strings of {limits.stop_characters} characters together",
            param="stop",
        )
    if body.stop is not None and not all(stops):
        raise invalid("stop: a string is empty", param="stop")
    if len(body.logit_bias) > limits.biases:
        raise invalid(f"logit_bias takes at most {limits.biases} tokens", param="logit_bias")


def _check_chat(body: ChatBody, limits: Limits) -> None:
    _check_answer(body, limits)
    if body.top_logprobs is not None and not 0 <= body.top_logprobs <= MAX_LOGPROBS:
        raise invalid(
            f"top_logprobs must be 0 to {MAX_LOGPROBS}, not {body.top_logprobs}", param="top_logprobs"
        )
    if body.tool_choice not in ("auto", "none"):
        raise invalid(
            "this server runs its own tools and calls none of the client's: leave tool_choice out",
            param="tool_choice",
        )
    if body.response_format.get("type", "text") != "text":
        raise invalid("only the response_format 'text' is available", param="response_format")
