"""Prometheus metrics of one app. Names are vLLM's where they mean the same, so that its dashboards work."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable by which prometheus-client shares the numbers of several processes through files."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_MODEL = ("model_name",)


class Telemetry:
    """The counters of one app, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()

        def histogram(name: str, help_text: str) -> Histogram:
            return Histogram(name, help_text, _MODEL, buckets=_SECONDS, registry=registry)

        def gauge(name: str, help_text: str) -> Gauge:
            return Gauge(name, help_text, _MODEL, registry=registry, multiprocess_mode="livesum")

        self.running = gauge("vllm:num_requests_running", "Answers being generated.")
        self.waiting = gauge("vllm:num_requests_waiting", "Answers waiting for a free row.")
        self.prompt_tokens = Counter("vllm:prompt_tokens", "Prompt tokens.", _MODEL, registry=registry)
        self.generation_tokens = Counter(
            "vllm:generation_tokens", "Generated tokens, tool outputs included.", _MODEL, registry=registry
        )
        self.finished = Counter(
            "vllm:request_success",
            "Answers by how they ended: stop, length, abort (cancelled), error.",
            (*_MODEL, "finished_reason"),
            registry=registry,
        )
        self.first_token = histogram(
            "vllm:time_to_first_token_seconds", "From the arrival of a request to its first token."
        )
        self.between_tokens = histogram(
            "vllm:inter_token_latency_seconds",
            "Between two steps that gave requests tokens; one value per step.",
        )
        self.queued = histogram("vllm:request_queue_time_seconds", "Waiting for a free row.")
        self.whole = histogram(
            "vllm:e2e_request_latency_seconds", "From the arrival of a request to its end."
        )
        self.responses = Counter(
            "nanochat:http_responses", "Responses by status.", ("status",), registry=registry
        )

    def observer(self, model: str) -> ModelObserver:
        """What a model's worker reports to."""
        return ModelObserver(self, model)

    def exposition(self) -> bytes:
        """The text for Prometheus; of several replicas, the sums."""
        if SHARED_FOLDER not in os.environ:
            return generate_latest(self._registry)
        merged = CollectorRegistry()
        MultiProcessCollector(merged)
        return generate_latest(merged)


class ModelObserver:
    """Counts what one model's worker does. Its counters are looked up once, because tokens are many."""

    def __init__(self, telemetry: Telemetry, model: str):
        self._finished, self._model = telemetry.finished, model
        self._running = telemetry.running.labels(model)
        self._waiting = telemetry.waiting.labels(model)
        self._prompt_tokens = telemetry.prompt_tokens.labels(model)
        self._generation_tokens = telemetry.generation_tokens.labels(model)
        self._first_token = telemetry.first_token.labels(model)
        self._between_tokens = telemetry.between_tokens.labels(model)
        self._queued = telemetry.queued.labels(model)
        self._whole = telemetry.whole.labels(model)
        self._depth = (0, 0)

    def started(self, waited: float, prompt_tokens: int) -> None:
        """A sample left the queue."""
        self._queued.observe(waited)
        self._prompt_tokens.inc(prompt_tokens)

    def tokens(self, count: int) -> None:
        """New tokens of a step."""
        self._generation_tokens.inc(count)

    def first(self, seconds: float) -> None:
        """The first token of a sample, so long after its arrival."""
        self._first_token.observe(seconds)

    def gap(self, seconds: float) -> None:
        """A step gave samples tokens, so long after their last ones."""
        self._between_tokens.observe(seconds)

    def ended(self, reason: str, seconds: float) -> None:
        """A sample ended."""
        self._finished.labels(self._model, reason).inc()
        self._whole.observe(seconds)

    def depth(self, running: int, waiting: int) -> None:
        """How many samples run and wait; the gauges add up the workers of one name, a run's steps."""
        self._running.inc(running - self._depth[0])
        self._waiting.inc(waiting - self._depth[1])
        self._depth = running, waiting
