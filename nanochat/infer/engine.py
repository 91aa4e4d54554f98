"""The engine: prompts in, tokens out, many requests at once on one model and one cache.

Every caller (chat, server, evaluation, reinforcement learning) answers through it. Each step runs either the
prompts of newcomers or one token of every running request (continuous batching, Orca, OSDI 2022).
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
"""Cache slots are read in multiples of this: shapes change seldom, and little is read in vain."""


class Engine:
    """Answers requests with a model.

    Args:
        model: in the mode and on the device it shall run in.
        tokenizer: the one the model was trained with.
        max_rows: how many requests run at once; memory for their keys and values is taken at once.
        max_seq_len: tokens of a prompt and its answer together; the model's context by default.
        tools: what answers the model's calls; None for a model that shall have no tools.
        prefill_tokens: the most prompt tokens, padding included, of one step (see Scheduler).

    Raises ValueError when the tokenizer is not the model's or max_seq_len is beyond its context.
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
        """Some request waits or runs."""
        return self._scheduler.busy

    def submit(self, prompt_ids: Sequence[int], params: SamplingParams) -> int:
        """Queue a prompt; `step` will answer it. Returns its request id. Raises ValueError as Request does."""
        request = self._request(prompt_ids, params)
        self._scheduler.add(request)
        return request.id

    def step(self) -> list[Event]:
        """Run the model once; one event for each request that took part (none when there is nothing to do)."""
        batch = self._scheduler.schedule()
        if not batch.requests:
            return []
        tokens = self._run(batch)
        events = [request.accept(token) for request, token in zip(batch.requests, tokens, strict=True)]
        # Highest row first: then the row that moves into a gap is never one that has finished itself.
        for request, event in reversed(list(zip(batch.requests, events, strict=True))):
            if event.finished:
                self._remove(request)
        return events

    def cancel(self, request_id: int) -> None:
        """Forget a request, wherever it is; nothing happens when it has finished."""
        request = self._scheduler.find(request_id)
        if request is not None:
            self._remove(request)

    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams | Sequence[SamplingParams]
    ) -> list[Completion]:
        """Answer all prompts, in their order; `params` for all, or one for each. The engine must be idle."""
        each = [params] * len(prompts) if isinstance(params, SamplingParams) else params
        if len(each) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts need as many sampling parameters, not {len(each)}")
        requests = [self._request(prompt, p) for prompt, p in zip(prompts, each, strict=True)]
        for _ in self._answer(requests):
            pass
        return [request.completion() for request in requests]

    def stream(self, prompt_ids: Sequence[int], params: SamplingParams) -> Generator[Event, None, None]:
        """Answer one prompt, token by token. Closing the generator cancels it. The engine must be idle."""
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
        finally:  # given up half-way: by an exception, or because the caller closed the generator
            for request in requests:
                self.cancel(request.id)

    def _remove(self, request: Request) -> None:
        move = self._scheduler.remove(request)
        if move is not None:
            self._cache.move(*move)

    @torch.inference_mode()
    def _run(self, batch: EngineStep) -> list[int]:
        """The next token of each request of the batch, by the model and the sampler."""
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
