"""The engine: prompts in, tokens out, many requests at once on one model and one cache.

Chat and evaluation share it. A step decodes one or several tokens of every running request (continuous batching, Orca,
OSDI 2022), beside a chunk of the new requests' prompts or in turn with one.
Shapes: N requests of a batch, T their longest chunk, C model width, V vocabulary.
"""

import math
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from time import perf_counter

import torch
from torch import Tensor

from nanochat.infer.cache import RowCache
from nanochat.infer.decoder import Continuation, Decoder, Span, threads_beside
from nanochat.infer.decoders import Decoders
from nanochat.infer.frozen import WeightsName
from nanochat.infer.pace import Pace
from nanochat.infer.request import Completion, Event, Request
from nanochat.infer.sampler import SamplingParams, TokenLogprobs, adjust, logprobs_of
from nanochat.infer.scheduler import Copy, EngineStep, PrefillLimit, Scheduler, Swap
from nanochat.infer.tools import DEFAULT_TOOLS, ToolTable
from nanochat.model.gpt import GPT
from nanochat.tokenizer.tokenizer import Tokenizer

_PREFILL = {"cuda": PrefillLimit(2048, 2048), "mps": PrefillLimit(512, 512), "cpu": PrefillLimit(256, 16)}
"""By kind of device: enough to fill it, and on a CPU few enough for gaps below three usual steps (bench/latency.py)."""
_MOST_STEPS = 16
"""The most tokens that a row decodes in one call where nobody waits for each."""


class Engine:
    """Answers requests with a model.

    Args:
        model: already in eval mode, on its device. Requests run on a frozen copy of its weights; see `reload`.
        tokenizer: the tokenizer that the model was trained with.
        max_rows: requests that run at once; others wait. Memory for their keys and values is allocated immediately.
        tools: the tools that the model may call; None for no tools.
        prefill: limit of prompt tokens per step (default: by device).
        weights: how the copy's matrices are stored on a CPU; bf16 and int8 are faster and less exact.

    Raises ValueError if the tokenizer does not match the model, or the device does not support `weights`.
    """

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        *,
        max_rows: int = 16,
        tools: ToolTable | None = DEFAULT_TOOLS,
        prefill: PrefillLimit | None = None,
        weights: WeightsName = "fp32",
    ):
        config = model.config
        if tokenizer.vocab_size != config.vocab_size:
            raise ValueError(
                f"the tokenizer has {tokenizer.vocab_size} tokens and the model {config.vocab_size}: "
                "use the tokenizer that the model was trained with"
            )
        self.tokenizer = tokenizer
        self._special_ids = list(tokenizer.special_ids.values())
        self.max_seq_len = config.max_seq_len
        device, dtype = model.head.weight.device, model.compute_dtype
        self._tools = tools or ()
        self._scheduler = Scheduler(max_rows, prefill or _PREFILL[device.type])
        self._cache = RowCache(config, max_rows, self.max_seq_len, device, dtype)
        self._config = config
        self._decoders = Decoders(model, self._cache, weights)
        self._ids = count()
        self._pace = Pace()
        self._prompts_last = False

    @property
    def busy(self) -> bool:
        """Whether any request is waiting or running."""
        return self._scheduler.busy

    def settle(self) -> None:
        """Wait for compiled code: from now on the same requests give the same bits."""
        self._decoders.settle()

    def reload(self, model: GPT) -> None:
        """Use another state of the same model from now on. Drops all cached tokens. The engine must be idle."""
        assert not self.busy, "requests that run cannot change to other weights"
        assert model.config == self._config, "another model needs another engine"
        self._decoders.reload(model)
        self._scheduler.forget()

    def submit(self, prompt_ids: Sequence[int], params: SamplingParams, reply: int = 0) -> int:
        """Queue a prompt for `step` to answer; returns the request's id. `reply`, and ValueError, as for Request."""
        request = self._request(prompt_ids, params, reply)
        self._scheduler.add(request)
        return request.id

    @torch.inference_mode()
    def step(self, budget_s: float = 0.0) -> list[Event]:
        """Run the model once. Returns an event per new token; none if the engine is idle or runs parts of prompts.

        `budget_s`: seconds for which tokens may be held back. Each request decodes as many at once as fit into them, if
        they take as long as the latest ones did; in between, parts of prompts run for up to as long.
        """
        decoder = self._decoders.best()
        steps, prompt_tokens = 1, 0.0
        if budget_s and _can_choose(decoder, self._scheduler.decoding()):
            steps = self._pace.tokens_within(budget_s, _MOST_STEPS)
        if steps > 1:
            prompt_tokens = self._pace.prompt_tokens_within(budget_s)
        planned = self._scheduler.schedule(prompt_tokens)
        if steps > 1 and self._prompts_last and planned.decoding:
            planned = replace(planned, chunks=())
        began = perf_counter()
        events = self._run(planned, decoder, steps)
        seconds = perf_counter() - began
        self._prompts_last = bool(planned.chunks)
        if planned.chunks and (steps > 1 or not planned.decoding):
            self._pace.read(sum(chunk.count for chunk in planned.chunks), seconds)
        elif events and not planned.chunks:
            self._pace.decoded(max(Counter(event.request_id for event in events).values()), seconds)
        return events

    def _run(self, planned: EngineStep, decoder: Decoder, steps: int) -> list[Event]:
        """What is planned; if the decoder can run `steps`, so many tokens of each request, not beside prompts."""
        for move in planned.moves:
            self._move(move)
        if steps > 1 and _can_choose(decoder, planned.decoding):
            if not planned.chunks:
                return self._decode_steps(planned.decoding, decoder, steps)
            planned = replace(planned, decoding=())
        work = [(row, request, 1) for row, request in planned.decoding]
        work += [(chunk.row, chunk.request, chunk.count) for chunk in planned.chunks]
        if not work:
            return []
        decoder.wake()
        complete = [at for at, (_, request, count) in enumerate(work) if count == request.remaining]
        spans = [_span(row, request, count) for row, request, count in work]
        uniforms = [number for at in complete for number in work[at][1].uniforms()]
        # Without a pause from here to the chosen tokens: the decoder's threads would fall asleep.
        with threads_beside(decoder):
            hidden_NC = decoder.run(spans)
            for chunk in planned.chunks:
                chunk.request.cached += chunk.count
            if not complete:
                return []
            if len(complete) < len(work):
                hidden_NC = hidden_NC[complete]
            return self._accept([work[at][1] for at in complete], uniforms, hidden_NC, decoder)

    def _decode_steps(
        self, decoding: Sequence[tuple[int, Request]], decoder: Decoder, steps: int
    ) -> list[Event]:
        assert decoder.multi_step is not None
        decoder.wake()
        rows = [_continuation(row, request, steps) for row, request in decoding]
        events: list[Event] = []
        decoded = decoder.multi_step.run(rows, self._special_ids)
        for (_, request), (tokens, own) in zip(decoding, decoded, strict=True):
            asked = request.params.logprobs is not None
            logprobs = [TokenLogprobs(each, ()) for each in own] if asked else [None] * len(tokens)
            events += request.accept_all(tokens, logprobs)
        self._remove_finished([request for _, request in decoding])
        return events

    def _accept(
        self, requests: Sequence[Request], uniforms: Sequence[float], hidden_NC: Tensor, decoder: Decoder
    ) -> list[Event]:
        """Choose each request's next token, and remove finished requests."""
        logits_NV = decoder.logits(hidden_NC)
        params = [request.params for request in requests]
        adjusted_NV = adjust(logits_NV, params, [request.tokens for request in requests])
        tokens = decoder.choose(adjusted_NV, params, uniforms).tolist()
        events: list[Event] = []
        logprobs = logprobs_of(logits_NV, tokens, params, decoder.log_sums)
        for request, token, own in zip(requests, tokens, logprobs, strict=True):
            events += request.accept(token, own)
        self._remove_finished(requests)
        return events

    def _remove_finished(self, requests: Sequence[Request]) -> None:
        """After all of them know how many tokens their rows hold."""
        for request in requests:
            if request.finished:
                self._remove(request)

    def cancel(self, request_id: int) -> None:
        """Drop a waiting or running request; no effect if it has finished."""
        request = self._scheduler.find(request_id)
        if request is not None:
            self._remove(request)

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams | Sequence[SamplingParams]
    ) -> list[Completion]:
        """Answer all prompts, in their order. `params`: one for all prompts, or one each. The engine must be idle.

        Raises ValueError for a wrong number of `params`, and as Request does.
        """
        each = [params] * len(prompts) if isinstance(params, SamplingParams) else params
        if len(each) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts need as many sampling parameters, not {len(each)}")
        requests = [self._request(prompt, p) for prompt, p in zip(prompts, each, strict=True)]
        with self._running(requests):
            while self.busy:
                self._run(self._scheduler.schedule(math.inf), self._decoders.best(), _MOST_STEPS)
        return [request.completion() for request in requests]

    def stream(self, prompt_ids: Sequence[int], params: SamplingParams) -> Generator[Event, None, None]:
        """Answer one prompt, token by token. Closing the generator cancels the request. The engine must be idle.

        Raises ValueError as Request does.
        """
        return self._stream(self._request(prompt_ids, params))

    def _request(self, prompt_ids: Sequence[int], params: SamplingParams, reply: int = 0) -> Request:
        return Request(
            next(self._ids), prompt_ids, params, self.tokenizer, self._tools, self.max_seq_len, reply
        )

    def _stream(self, request: Request) -> Generator[Event, None, None]:
        with self._running([request]):
            while self.busy:
                yield from self.step()

    @contextmanager
    def _running(self, requests: Sequence[Request]) -> Iterator[None]:
        """Queues requests, and drops them after an exception, or when a caller closes a stream early."""
        assert not self.busy, "generate and stream need an idle engine: use submit and step to share it"
        for request in requests:
            self._scheduler.add(request)
        try:
            yield
        finally:
            for request in requests:
                self.cancel(request.id)

    def _remove(self, request: Request) -> None:
        move = self._scheduler.remove(request)
        if move is not None:
            self._move(move)

    def _move(self, move: Swap | Copy) -> None:
        with threads_beside(
            self._decoders.best()
        ):  # on a busy machine, two threads would wait long for each other
            if isinstance(move, Copy):
                self._cache.copy(move.source, move.destination, move.length)
            else:
                self._cache.swap(move.a, move.b, move.length)


def _can_choose(decoder: Decoder, decoding: Sequence[tuple[int, Request]]) -> bool:
    """Whether it decodes several tokens of these requests in one call."""
    return decoder.multi_step is not None and decoder.multi_step.can_choose(
        [request.params for _, request in decoding]
    )


def _span(row: int, request: Request, count: int) -> Span:
    """The request's next `count` pending tokens."""
    start = request.cached
    previous = request.tokens[start - 1] if start else 0
    return Span(row, start, request.tokens[start : start + count], previous)


def _continuation(row: int, request: Request, most: int) -> Continuation:
    """Of a request with one pending token, for up to so many more."""
    at = request.cached
    token, previous = request.tokens[at], request.tokens[at - 1] if at else 0
    return Continuation(row, at, token, previous, request.params, request.uniforms(most))
