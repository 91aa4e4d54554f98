"""What all endpoints share: the models, the limits and the server's own defaults."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from nanochat.infer.sampler import SamplingParams
from nanochat.serve.faults import ApiFault, invalid
from nanochat.serve.limits import Limits
from nanochat.serve.openai_schema import SamplingBody
from nanochat.serve.pool import ModelPool, ServedModel
from nanochat.serve.telemetry import Telemetry

_LARGEST_SEED = 2**63


@dataclass(frozen=True)
class Service:
    """An app's parts, made once."""

    pool: ModelPool
    telemetry: Telemetry
    limits: Limits
    default_model: str
    defaults: SamplingParams
    system: str | None
    """The page's system prompt at first; requests to the API bring their own."""

    def model(self, name: str | None) -> AbstractAsyncContextManager[ServedModel]:
        """A model by name, by default the server's."""
        return self.pool.using(name or self.default_model)


def sampling(body: SamplingBody, service: Service, max_tokens: int | None = None) -> SamplingParams:
    """The parameters of a request; the server's defaults where it gives none. Raises ApiFault naming the field."""
    defaults, limits = service.defaults, service.limits
    wanted = max_tokens if max_tokens is not None else body.max_tokens
    if wanted is not None and wanted < 1:
        name = "max_tokens" if max_tokens is None else "max_completion_tokens"
        raise invalid(f"{name} must be at least 1, not {wanted}", param=name)
    if body.seed is not None and abs(body.seed) >= _LARGEST_SEED:
        raise invalid("seed must fit into 64 bits", param="seed")
    wanted = defaults.max_new_tokens if wanted is None else wanted
    given = {
        "temperature": body.temperature,
        "top_p": body.top_p,
        "min_p": body.min_p,
        "repetition_penalty": body.repetition_penalty,
    }
    values: dict[str, Any] = {
        name: getattr(defaults, name) if value is None else value for name, value in given.items()
    }
    top_k = defaults.top_k if body.top_k is None else body.top_k
    if top_k is not None and top_k < -1:
        raise invalid(f"top_k must be at least 1, or 0 or -1 for no limit, not {top_k}", param="top_k")
    try:
        return SamplingParams(
            **values,
            top_k=top_k if top_k is not None and top_k > 0 else None,
            seed=body.seed,
            max_new_tokens=wanted if limits.max_tokens is None else min(wanted, limits.max_tokens),
        )
    except ValueError:
        raise _fault_of(values) from None


def _fault_of(values: Mapping[str, float]) -> ApiFault:
    """The fault that names which of the sampling parameters is out of range."""
    for name, value in values.items():
        try:
            SamplingParams(**{name: value})  # type: ignore[arg-type]
        except ValueError as error:
            return invalid(str(error), param=name)
    raise AssertionError("each parameter is in range alone")
