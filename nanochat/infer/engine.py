"""The engine: prompts in, tokens out, many requests at once on one model and one cache.

Chat and evaluation share it. Each step decodes one token of every running request (continuous batching, Orca, OSDI
2022) and runs a piece of the new requests' prompts.
Shapes: N requests of a batch, T their longest piece, C model width, V vocabulary.
"""

from collections.abc import Generator, Iterable, Sequence
from itertools import count

import torch
from torch import Tensor

from nanochat.infer.decoder import Decoder, RowCache, row_bytes
from nanochat.infer.request import Completion, Event, Request
from nanochat.infer.sampler import SamplingParams, adjust, logprobs_of, sample
from nanochat.infer.scheduler import Copy, Piece, Scheduler, Swap
from nanochat.infer.tools import DEFAULT_TOOLS, ToolTable
from nanochat.model.gpt import GPT
from nanochat.tokenizer.tokenizer import Tokenizer

_SLOT_BLOCK = 64
"""Cache slots are read in multiples of this, so that shapes rarely change and little is read unnecessarily."""
PREFILL_TOKENS = {"cuda": 2048, "mps": 512, "cpu": 256}
"""Prompt tokens per step, by kind of device: enough to fill it, few enough not to delay running requests."""


class Engine:
    """Answers requests with a model.

    Args:
        model: already in eval mode, on its device. Requests run on a frozen copy of its weights; see `reload`.
        tokenizer: the tokenizer that the model was trained with.
        max_rows: requests that run at once; memory for their keys and values is allocated immediately.
        max_seq_len: tokens of a prompt and its answer together (default: the model's context).
        max_bytes: limit of that memory (default: none). It may lower the number of rows; further requests wait.
        tools: the tools that the model may call; None for no tools.
        prefill_tokens: limit of prompt tokens, including padding, per step (default: by device).

    Raises ValueError if the tokenizer does not match the model, max_seq_len exceeds the model's context, or
    max_bytes is too small for one row.
    """

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        *,
        max_rows: int = 16,
        max_seq_len: int | None = None,
        max_bytes: int | None = None,
        tools: ToolTable | None = DEFAULT_TOOLS,
        prefill_tokens: int | None = None,
    ):
        config = model.config
        if tokenizer.vocab_size != config.vocab_size:
            raise ValueError(
                f"the tokenizer has {tokenizer.vocab_size} tokens and the model {config.vocab_size}: "
                "use the tokenizer that the model was trained with"
            )
        self.tokenizer = tokenizer
        self.max_seq_len = config.max_seq_len if max_seq_len is None else max_seq_len
        if self.max_seq_len > config.max_seq_len:
            raise ValueError(
                f"max_seq_len {self.max_seq_len} is longer than the model's context of {config.max_seq_len}"
            )
        self._decoder = Decoder(model)
        self._device, dtype = self._decoder.device, self._decoder.dtype
        self._tools = tools or ()
        rows = _rows_within(max_bytes, max_rows, row_bytes(config, self.max_seq_len, dtype))
        self._scheduler = Scheduler(rows, prefill_tokens or PREFILL_TOKENS[self._device.type])
        self._cache = RowCache(config, rows, self.max_seq_len, self._device, dtype)
        self._ids = count()

    @property
    def busy(self) -> bool:
        """Whether any request is waiting or running."""
        return self._scheduler.busy

    def reload(self, model: GPT) -> None:
        """Use another state of the same model from now on. Drops all cached tokens. The engine must be idle."""
        assert not self.busy, "requests that run cannot change to other weights"
        assert model.config == self._decoder.config, "another model needs another engine"
        self._decoder = Decoder(model)
        self._scheduler.forget()

    def submit(self, prompt_ids: Sequence[int], params: SamplingParams) -> int:
        """Queue a prompt for `step` to answer; returns the request's id. Raises ValueError as Request does."""
        request = self._request(prompt_ids, params)
        self._scheduler.add(request)
        return request.id

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """Run the model once. Returns an event per new token; none if the engine is idle or runs parts of prompts."""
        planned = self._scheduler.schedule()
        for move in planned.moves:
            self._move(move)
        requests: list[Request] = []
        logits: list[Tensor] = []
        if planned.decoding:
            requests += [request for _, request in planned.decoding]
            logits.append(self._decode(planned.decoding))
        if planned.pieces:
            hidden_NC = self._prefill(planned.pieces)
            complete = [i for i, p in enumerate(planned.pieces) if p.count == len(p.request.pending)]
            requests += [planned.pieces[i].request for i in complete]
            logits.append(self._decoder.logits(hidden_NC[complete]))
            for piece in planned.pieces:
                piece.request.cached += piece.count
        return self._accept(requests, torch.cat(logits)) if requests else []

    def _accept(self, requests: Sequence[Request], logits_NV: Tensor) -> list[Event]:
        """Choose each request's next token, and remove finished requests."""
        params = [request.params for request in requests]
        adjusted_NV = adjust(logits_NV, params, [request.tokens for request in requests])
        tokens = sample(adjusted_NV, params, [request.uniform() for request in requests]).tolist()
        events: list[Event] = []
        for request, token, logprobs in zip(
            requests, tokens, logprobs_of(logits_NV, tokens, params), strict=True
        ):
            events += request.accept(token, logprobs)
        for request in requests:  # after all of them know how many tokens their rows hold
            if request.finished:
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
            self._move(move)

    def _move(self, move: Swap | Copy) -> None:
        if isinstance(move, Copy):
            self._cache.copy(move.source, move.destination, move.length)
        else:
            self._cache.swap(move.a, move.b, move.length)

    def _decode(self, decoding: Sequence[tuple[int, Request]]) -> Tensor:
        """Logits (N, V) after each request's only pending token. Rows between them that prefill are padding."""
        rows = decoding[-1][0] + 1
        columns = [(0, 0, -1)] * rows  # id, previous id, position
        for row, request in decoding:
            previous = request.tokens[-2] if request.cached else 0
            columns[row] = (request.tokens[-1], previous, request.cached)
        ids_N1, previous_N1, positions_N1 = torch.tensor(columns, device=self._device).T[..., None]
        slots = self._slots(1 + max(request.cached for _, request in decoding))
        hidden_NC = self._decoder.hidden(
            ids_N1, previous_N1, positions_N1, self._cache, slice(0, rows), slots
        ).squeeze(1)
        if len(decoding) < rows:
            hidden_NC = hidden_NC[[row for row, _ in decoding]]
        return self._decoder.logits(hidden_NC)

    def _prefill(self, pieces: Sequence[Piece]) -> Tensor:
        """The hidden state (N, C) of each piece's last token."""
        longest = max(piece.count for piece in pieces)

        def padded(values: Iterable[int], fill: int) -> list[int]:
            listed = list(values)
            return listed + [fill] * (longest - len(listed))

        ids, previous, positions = [], [], []
        for piece in pieces:
            tokens, start = piece.request.tokens, piece.request.cached
            stop = start + piece.count
            ids.append(padded(tokens[start:stop], 0))
            previous.append(padded([tokens[start - 1] if start else 0, *tokens[start : stop - 1]], 0))
            positions.append(padded(range(start, stop), -1))
        ids_NT, previous_NT, positions_NT = torch.tensor([ids, previous, positions], device=self._device)
        rows_N = torch.tensor([piece.row for piece in pieces], device=self._device)
        last_N = torch.tensor([piece.count - 1 for piece in pieces], device=self._device)
        slots = self._slots(max(piece.request.cached + piece.count for piece in pieces))
        hidden_NTC = self._decoder.hidden(ids_NT, previous_NT, positions_NT, self._cache, rows_N, slots)
        return hidden_NTC[torch.arange(len(pieces), device=self._device), last_N]

    def _slots(self, needed: int) -> int:
        return min(-(-needed // _SLOT_BLOCK) * _SLOT_BLOCK, self.max_seq_len)


def _rows_within(max_bytes: int | None, max_rows: int, one_row: int) -> int:
    """As many rows as max_bytes allows, one more being scratch. Raises ValueError if that is none."""
    if max_bytes is None:
        return max_rows
    if max_bytes < 2 * one_row:
        raise ValueError(
            f"{max_bytes:,} bytes are too few for one request: its keys and values need {2 * one_row:,}"
        )
    return min(max_rows, max_bytes // one_row - 1)
