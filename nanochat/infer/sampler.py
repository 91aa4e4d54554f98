"""Choosing the next token: penalty and bias, temperature, top-k, top-p and min-p, each row with its own parameters.

Each row inverts its cumulative distribution at one uniform number, a hash of its seed and token count. There is
no generator state, so a request's tokens do not depend on the rest of the batch.
Shapes: N rows, V vocabulary, M candidates.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

import torch
from torch import Tensor

_GREEDY_BELOW = 1e-5
"""Temperatures below this mean greedy decoding: dividing by less would overflow fp32."""
MAX_TEMPERATURE = 100.0
"""All tokens are almost equally likely there."""
MAX_LOGPROBS = 20
MAX_BIAS = 100.0


@dataclass(frozen=True)
class SamplingParams:
    """How to sample one request. Raises ValueError for a value out of range."""

    temperature: float = 1.0
    """0: greedy."""
    top_k: int | None = None
    """Sample from the k most likely tokens, and those tied with the k-th."""
    top_p: float = 1.0
    """Sample from the smallest set of tokens with this share of the probability, after top_k."""
    min_p: float = 0.0
    """Sample from tokens that have at least this share of the likeliest one's probability (arXiv:2407.01082)."""
    repetition_penalty: float = 1.0
    """Divides positive logits of tokens that occurred, multiplies negative ones (arXiv:1909.05858); 1: none."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, number between -100 and 100 to add to its logit)."""
    logprobs: int | None = None
    """Report each token's log-probability and those of this many likeliest tokens; None: report nothing."""
    seed: int | None = None
    """Equal prompts and seeds give equal tokens; None draws a new seed for each request."""
    max_new_tokens: int = 256
    stop: tuple[str, ...] = ()
    """The answer ends before the first of these strings."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= MAX_TEMPERATURE:
            raise ValueError(
                f"temperature must be 0 (greedy) to {MAX_TEMPERATURE:g}, not {self.temperature:g}"
            )
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1 (or None for no limit), not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p must be between 0 and 1, not {self.min_p}")
        if not (math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0):
            raise ValueError(
                f"repetition_penalty must be above 0 (1 for none), not {self.repetition_penalty}"
            )
        if not all(token >= 0 and abs(bias) <= MAX_BIAS for token, bias in self.logit_bias):
            raise ValueError(
                f"logit_bias takes token ids and numbers between -{MAX_BIAS:g} and {MAX_BIAS:g}, "
                f"not {self.logit_bias}"
            )
        if self.logprobs is not None and not 0 <= self.logprobs <= MAX_LOGPROBS:
            raise ValueError(f"logprobs must be between 0 and {MAX_LOGPROBS}, not {self.logprobs}")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, not {self.max_new_tokens}")
        if isinstance(self.stop, str) or not all(isinstance(text, str) and text for text in self.stop):
            raise ValueError(f"stop must be a tuple of non-empty strings, not {self.stop!r}")

    def for_sample(self, index: int) -> "SamplingParams":
        """These parameters for one of several samples of a prompt: each has its own seed."""
        return self if self.seed is None or index == 0 else replace(self, seed=self.seed + index)

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken."""
        return self.temperature < _GREEDY_BELOW


CHAT_SAMPLING = SamplingParams(temperature=0.6, top_k=50, max_new_tokens=256)
"""The defaults of a conversation: in the terminal, of the server, and in the generation config of an exported model."""


@dataclass(frozen=True)
class TokenLogprobs:
    """Natural log-probabilities under the model, before penalty, bias and temperature."""

    logprob: float
    """Of the chosen token."""
    top: tuple[tuple[int, float], ...]
    """(id, log-probability) of the likeliest tokens, best first."""


def uniform(seed: int, index: int) -> float:
    """The index-th random number of a seed, in [0, 1), exact in fp32 (24 bits)."""
    digest = blake2b(f"{seed}:{index}".encode(), digest_size=3).digest()
    return int.from_bytes(digest, "little") / 2**24


def adjust(logits_NV: Tensor, params: Sequence[SamplingParams], tokens: Sequence[Sequence[int]]) -> Tensor:
    """Logits with each row's repetition penalty and bias; the same tensor if no row has either.

    tokens: each row's prompt and answer so far.
    """
    rows = [row for row, p in enumerate(params) if p.repetition_penalty != 1 or p.logit_bias]
    if not rows:
        return logits_NV
    logits_NV = logits_NV.clone()
    for row in rows:
        penalty = params[row].repetition_penalty
        if penalty != 1:
            seen = torch.tensor(sorted(set(tokens[row])), device=logits_NV.device)
            values = logits_NV[row, seen]
            logits_NV[row, seen] = torch.where(values > 0, values / penalty, values * penalty)
    biases = [(row, token, bias) for row in rows for token, bias in params[row].logit_bias]
    if biases:  # all at once: an operator for each would take longer than a small model's step
        at_rows, at_tokens, added = (list(column) for column in zip(*biases, strict=True))
        index = (
            torch.tensor(at_rows, device=logits_NV.device),
            torch.tensor(at_tokens, device=logits_NV.device),
        )
        logits_NV.index_put_(index, torch.tensor(added, device=logits_NV.device), accumulate=True)
    return logits_NV


def sample(logits_NV: Tensor, params: Sequence[SamplingParams], uniforms: Sequence[float]) -> Tensor:
    """One token id per row, int64 (N,).

    Args:
        logits_NV: fp32 logits of the last position of each row.
        params: sampling parameters of each row.
        uniforms: one number in [0, 1) per row; greedy rows ignore it.
    """
    greedy = [row for row, p in enumerate(params) if p.greedy]
    sampled = [row for row, p in enumerate(params) if not p.greedy]
    if not sampled:
        return logits_NV.argmax(dim=-1)
    own = [params[row] for row in sampled]
    columns = torch.tensor(
        [[p.temperature, uniforms[row]] for p, row in zip(own, sampled, strict=True)],
        device=logits_NV.device,
        dtype=torch.float32,
    )
    if not greedy:
        return _draw_token(logits_NV, own, columns[:, :1], columns[:, 1:])
    chosen_N = logits_NV.argmax(dim=-1)
    chosen_N[sampled] = _draw_token(logits_NV[sampled], own, columns[:, :1], columns[:, 1:])
    return chosen_N


def _draw_token(
    logits_NV: Tensor,
    params: Sequence[SamplingParams],
    temperature_N1: Tensor,
    uniform_N1: Tensor,
) -> Tensor:
    """Draw from what top-k, top-p and min-p leave: from few candidates if all rows have a top-k, which is quicker."""
    vocab_size = logits_NV.size(1)
    most = max(p.top_k or vocab_size for p in params)
    if most < vocab_size:  # one more than needed shows whether the last candidate kept is tied with others
        candidate_NM, id_NM = logits_NV.topk(most + 1, dim=-1)
        if not (candidate_NM[:, -1] == candidate_NM[:, -2]).any():
            scaled_NM = (candidate_NM - candidate_NM[:, :1]) / temperature_N1
            id_NM, order_NM = id_NM.sort(dim=-1)  # by id, because kernels order equal logits differently
            kept_NM = truncate(scaled_NM.gather(1, order_NM), params)
            return id_NM.gather(1, _draw(kept_NM.exp(), uniform_N1)[:, None])[:, 0]
    scaled_NV = (logits_NV - logits_NV.amax(dim=-1, keepdim=True)) / temperature_N1
    return _draw(truncate(scaled_NV, params).exp(), uniform_N1)


def _draw(weights_NV: Tensor, uniform_N1: Tensor) -> Tensor:
    """The column at which each row's cumulated weight passes its share `uniform_N1` of the total, (N,)."""
    cumulated_NV = weights_NV.cumsum(dim=-1)
    target_N1 = uniform_N1 * cumulated_NV[:, -1:]
    drawn_N1 = torch.searchsorted(cumulated_NV, target_N1, right=True).clamp_(max=weights_NV.size(1) - 1)
    # A GPU's parallel scan may round up past a token of zero weight, and NaN logits have no weight at all.
    likeliest_N1 = weights_NV.argmax(dim=-1, keepdim=True)
    return torch.where(weights_NV.gather(1, drawn_N1) > 0, drawn_N1, likeliest_N1).squeeze(1)


def truncate(logits_NV: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """Logits with -inf for tokens outside their row's top k, outside the top-p nucleus of those, or below min-p.

    Tokens tied with the last one kept are kept, so that the result does not depend on how a kernel sorts ties.
    The same tensor if no row truncates. Nucleus sampling: Holtzman et al. (arXiv:1904.09751).
    """
    if all(p.top_k is None and p.top_p == 1 and p.min_p == 0 for p in params):
        return logits_NV
    columns = logits_NV.size(1)
    limits = [min(p.top_k or columns, columns) for p in params]
    limit_N1 = torch.tensor(limits, device=logits_NV.device)[:, None]
    shares = torch.tensor([[p.top_p, p.min_p] for p in params], device=logits_NV.device, dtype=torch.float32)
    # M candidates, best first: only as many as the widest row needs, because sorting a whole vocabulary is slow
    best_NM = logits_NV.topk(max(limits), dim=-1).values
    candidate_NM = torch.arange(max(limits), device=logits_NV.device) < limit_N1
    weights_NM = (best_NM - best_NM[:, :1]).exp() * candidate_NM
    cumulated_NM = weights_NM.cumsum(dim=-1)
    nucleus_NM = (cumulated_NM - weights_NM < shares[:, :1] * cumulated_NM[:, -1:]) | (shares[:, :1] >= 1)
    kept_NM = candidate_NM & nucleus_NM & (weights_NM >= shares[:, 1:])
    kept_N1 = kept_NM.sum(dim=-1, keepdim=True).clamp_min(1)  # 0 only where logits are NaN
    return logits_NV.masked_fill(logits_NV < best_NM.gather(1, kept_N1 - 1), -math.inf)


def log_sums(logits_NV: Tensor) -> Tensor:
    """The logarithm of the sum of e^logit of each row, (N,)."""
    return logits_NV.logsumexp(dim=-1)


def logprobs_of(
    logits_NV: Tensor,
    tokens: Sequence[int],
    params: Sequence[SamplingParams],
    log_sums: Callable[[Tensor], Tensor] = log_sums,
) -> list[TokenLogprobs | None]:
    """The log-probabilities that each row asks for, of its chosen token and the likeliest ones.

    `log_sums`: as the function of this name.
    """
    reported: list[TokenLogprobs | None] = [None] * len(params)
    rows = [row for row, p in enumerate(params) if p.logprobs is not None]
    if not rows:
        return reported
    own_NV = logits_NV[rows] if len(rows) < len(params) else logits_NV
    own_N1 = torch.tensor([tokens[row] for row in rows], device=logits_NV.device)[:, None]
    own, sums = own_NV.gather(1, own_N1).flatten().tolist(), log_sums(own_NV).tolist()
    asked = any(params[row].logprobs for row in rows)
    top = own_NV.topk(min(MAX_LOGPROBS, logits_NV.size(1)), dim=-1) if asked else None
    values = top.values.tolist() if top else [()] * len(rows)
    ids = top.indices.tolist() if top else [()] * len(rows)
    for at, row in enumerate(rows):
        pairs = [*zip(ids[at], values[at], strict=True)][: params[row].logprobs]
        logprobs = tuple((token, value - sums[at]) for token, value in pairs)
        reported[row] = TokenLogprobs(own[at] - sums[at], logprobs)
    return reported
