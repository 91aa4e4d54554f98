"""The engine: prompts in, tokens out, many requests at once on one model and one cache.

Chat and evaluation share it. Each step runs either the prompts of new requests or one token of every running
request (continuous batching, Orca, OSDI 2022).
Shapes: N requests of a step, T their longest pending part, C model width, V vocabulary.
"""

from collections.abc import Generator, Sequence
from itertools import count

import torch

from nanochat.infer.cache import KVCache
from nanochat.infer.request import Completion, Event, Request
from nanochat.infer.sampler import SamplingParams, sample
from nanochat.infer.scheduler import EngineStep, Scheduler
from nanochat.infer.tools import DEFAULT_TOOLS, ToolTable
from nanochat.model.gpt import GPT
from nanochat.tokenizer.tokenizer import Tokenizer

_SLOT_BLOCK = 64
"""Cache slots are read in multiples of this, so that shapes rarely change and little is read unnecessarily."""


class Engine:
    """Answers requests with a model.

    Args:
        model: already in eval mode, on its device.
        tokenizer: the tokenizer that the model was trained with.
        max_rows: requests that run at once; memory for their keys and values is allocated immediately.
        max_seq_len: tokens of a prompt and its answer together (default: the model's context).
        tools: the tools that the model may call; None for no tools.
        prefill_tokens: limit of prompt tokens, including padding, per step (see Scheduler).

    Raises ValueError if the tokenizer does not match the model or max_seq_len exceeds the model's context.
    """

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        *,
        max_rows: int = 16,
        max_seq_len: int | None = None,
        tools: ToolTable | None = DEFAULT_TOOLS,
        prefill_tokens: int = 4096,
    ):
        if tokenizer.vocab_size != model.config.vocab_size:
            raise ValueError(
                f"the tokenizer has {tokenizer.vocab_size} tokens and the model {model.config.vocab_size}: "
                "use the tokenizer that the model was trained with"
            )
        self.tokenizer = tokenizer
        self.max_seq_len = model.config.max_seq_len if max_seq_len is None else max_seq_len
        self._model = model
        self._device = model.head.weight.device
        self._tools = tools or ()
        self._scheduler = Scheduler(max_rows, prefill_tokens)
        self._cache = KVCache.empty(
            model.config, max_rows, self.max_seq_len, self._device, model.compute_dtype
        )
        self._ids = count()

    @property
    def busy(self) -> bool:
        """Whether any request is waiting or running."""
        return self._scheduler.busy

    def submit(self, prompt_ids: Sequence[int], params: SamplingParams) -> int:
        """Queue a prompt for `step` to answer; returns the request's id. Raises ValueError as Request does."""
        request = self._request(prompt_ids, params)
        self._scheduler.add(request)
        return request.id

    def step(self) -> list[Event]:
        """Run the model once. Returns one event per request in the step, none if the engine is idle."""
        batch = self._scheduler.schedule()
        if not batch.requests:
            return []
        tokens = self._run(batch)
        events = [request.accept(token) for request, token in zip(batch.requests, tokens, strict=True)]
        # Highest row first, so that the row that fills a gap has not itself finished.
        for request, event in reversed(list(zip(batch.requests, events, strict=True))):
            if event.finished:
                self._remove(request)
        return events

    def cancel(self, request_id: int) -> None:
        """Drop a waiting or running request; no effect if it has finished."""
        request = self._scheduler.find(request_id)
        if request is not None:
            self._remove(request)

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
        for _ in self._answer(requests):
            pass
        return [request.completion() for request in requests]

    def stream(self, prompt_ids: Sequence[int], params: SamplingParams) -> Generator[Event, None, None]:
        """Answer one prompt, token by token. Closing the generator cancels the request. The engine must be idle.

        Raises ValueError as Request does.
        """
        return self._answer([self._request(prompt_ids, params)])

    def _request(self, prompt_ids: Sequence[int], params: SamplingParams) -> Request:
        return Request(next(self._ids), prompt_ids, params, self.tokenizer, self._tools, self.max_seq_len)

    def _answer(self, requests: Sequence[Request]) -> Generator[Event, None, None]:
        assert not self.busy, "generate and stream need an idle engine: use submit and step to share it"
        for request in requests:
            self._scheduler.add(request)
        try:
            while self.busy:
                yield from self.step()
        finally:  # also after an exception, or when the caller closes the generator early
            for request in requests:
                self.cancel(request.id)

    def _remove(self, request: Request) -> None:
        move = self._scheduler.remove(request)
        if move is not None:
            self._cache.move(*move)

    @torch.inference_mode()
    def _run(self, batch: EngineStep) -> list[int]:
        """Run the model and sample the next token of each request in the batch."""
        pending = [request.pending for request in batch.requests]
        longest = max(map(len, pending))
        padding = [longest - len(tokens) for tokens in pending]
        ids_NT = torch.tensor(
            [[*tokens, *[0] * n] for tokens, n in zip(pending, padding, strict=True)], device=self._device
        )
        positions_NT = torch.tensor(
            [
                [*range(request.cached, len(request.tokens)), *[-1] * n]
                for request, n in zip(batch.requests, padding, strict=True)
            ],
            device=self._device,
        )
        rows = self._cache.rows(
            batch.first_row,
            batch.first_row + len(batch.requests),
            self._slots(max(len(request.tokens) for request in batch.requests)),
        )
        hidden_NTC = self._model(ids_NT, positions_NT, rows)
        last_N = torch.tensor([len(tokens) - 1 for tokens in pending], device=self._device)
        hidden_NC = hidden_NTC[torch.arange(len(pending), device=self._device), last_N]
        logits_NV = self._model.logits(hidden_NC)
        params = [request.params for request in batch.requests]
        return sample(logits_NV, params, [request.uniform() for request in batch.requests]).tolist()

    def _slots(self, needed: int) -> int:
        return min(-(-needed // _SLOT_BLOCK) * _SLOT_BLOCK, self.max_seq_len)
