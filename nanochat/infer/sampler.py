"""Sampling the next token: temperature, top-k and top-p, with separate parameters for each row of a batch.

Each row inverts its cumulative distribution at one uniform number, a hash of its seed and token count. There is
no generator state, so a request's tokens do not depend on the rest of the batch. Shapes: N rows, V vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

_GREEDY_BELOW = 1e-5
"""Temperatures below this mean greedy decoding: dividing by less would overflow fp32."""


@dataclass(frozen=True)
class SamplingParams:
    """How to sample one request. Raises ValueError for a value out of range."""

    temperature: float = 1.0
    """0: greedy."""
    top_k: int | None = None
    """Sample from the k most likely tokens, and those tied with the k-th."""
    top_p: float = 1.0
    """Sample from the smallest set of tokens with this share of the probability, after top_k."""
    seed: int | None = None
    """Equal prompts and seeds give equal tokens; None draws a new seed for each request."""
    max_new_tokens: int = 256
    stop: tuple[str, ...] = ()
    """The answer ends before the first of these strings."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature must be 0 (greedy) or more, not {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1 (or None for no limit), not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, not {self.max_new_tokens}")
        if isinstance(self.stop, str) or not all(isinstance(text, str) and text for text in self.stop):
            raise ValueError(f"stop must be a tuple of non-empty strings, not {self.stop!r}")

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken."""
        return self.temperature < _GREEDY_BELOW

    @property
    def truncates(self) -> bool:
        """Whether top_k or top_p excludes tokens."""
        return not self.greedy and (self.top_k is not None or self.top_p < 1)


def uniform(seed: int, index: int) -> float:
    """The index-th random number of a seed, in [0, 1), exact in fp32 (24 bits)."""
    digest = blake2b(f"{seed}:{index}".encode(), digest_size=3).digest()
    return int.from_bytes(digest, "little") / 2**24


def sample(logits_NV: Tensor, params: Sequence[SamplingParams], uniforms: Sequence[float]) -> Tensor:
    """One token id per row, int64 (N,).

    Args:
        logits_NV: fp32 logits of the last position of each row.
        params: sampling parameters of each row.
        uniforms: one number in [0, 1) per row; greedy rows ignore it.
    """
    likeliest_N = logits_NV.argmax(dim=-1)
    if all(p.greedy for p in params):
        return likeliest_N

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, device=logits_NV.device, dtype=torch.float32)[:, None]

    temperature_N1 = column([1.0 if p.greedy else p.temperature for p in params])
    scaled_NV = (logits_NV - logits_NV.gather(1, likeliest_N[:, None])) / temperature_N1
    rows = [row for row, p in enumerate(params) if p.truncates]
    if rows:
        scaled_NV[rows] = truncate(
            scaled_NV[rows], [params[row].top_k for row in rows], [params[row].top_p for row in rows]
        )
    weights_NV = scaled_NV.exp()
    cumulated_NV = weights_NV.cumsum(dim=-1)
    target_N1 = column(uniforms) * cumulated_NV[:, -1:]
    drawn_N1 = torch.searchsorted(cumulated_NV, target_N1, right=True).clamp_(max=logits_NV.size(1) - 1)
    # A GPU's parallel scan may round up past a token of zero weight, and NaN logits have no weight at all.
    drawn_N = torch.where(weights_NV.gather(1, drawn_N1) > 0, drawn_N1, likeliest_N[:, None]).squeeze(1)
    greedy_N = torch.tensor([p.greedy for p in params], device=logits_NV.device)
    return torch.where(greedy_N, likeliest_N, drawn_N)


def truncate(logits_NV: Tensor, top_k: Sequence[int | None], top_p: Sequence[float]) -> Tensor:
    """Logits with -inf for tokens outside their row's top k, or outside the top-p nucleus of those.

    Tokens tied with the last one kept are kept, so that the result does not depend on how a kernel sorts ties.
    Nucleus sampling: Holtzman et al. (arXiv:1904.09751).
    """
    vocab_size = logits_NV.size(1)
    limits = [min(k or vocab_size, vocab_size) for k in top_k]
    limit_N1 = torch.tensor(limits, device=logits_NV.device)[:, None]
    share_N1 = torch.tensor(top_p, device=logits_NV.device, dtype=torch.float32)[:, None]
    # M candidates, best first: only as many as the widest row needs, because sorting a whole vocabulary is slow
    best_NM = logits_NV.topk(max(limits), dim=-1).values
    candidate_NM = torch.arange(max(limits), device=logits_NV.device) < limit_N1
    weights_NM = (best_NM - best_NM[:, :1]).exp() * candidate_NM
    cumulated_NM = weights_NM.cumsum(dim=-1)
    nucleus_NM = (cumulated_NM - weights_NM < share_N1 * cumulated_NM[:, -1:]) | (share_N1 >= 1)
    kept_N1 = (
        (candidate_NM & nucleus_NM).sum(dim=-1, keepdim=True).clamp_min(1)
    )  # 0 only where logits are NaN
    return logits_NV.masked_fill(logits_NV < best_NM.gather(1, kept_N1 - 1), -math.inf)
