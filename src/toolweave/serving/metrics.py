"""What the server tells Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from toolweave.serving.engine import Engine
from toolweave.serving.generation import Usage

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self, engine: Engine) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "toolweave_requests", "Requests answered, by HTTP status", ["status"], registry=self._registry
        )
        self.first_token = self._histogram("toolweave_time_to_first_token_seconds", "Time to the first token")
        self.duration = self._histogram("toolweave_request_seconds", "Time to the end of a request")
        self._prompt = self._counter("toolweave_prompt_tokens", "Prompt tokens")
        self._cached = self._counter("toolweave_cached_prompt_tokens", "Prompt tokens that were not computed again")
        self._generated = self._counter("toolweave_generated_tokens", "Generated tokens")
        self._gauge("toolweave_requests_running", "Requests in the batch").set_function(lambda: engine.running)
        self._gauge("toolweave_requests_waiting", "Requests waiting").set_function(lambda: engine.waiting)
        self._gauge("toolweave_prefix_cache_tokens", "Tokens kept for reuse").set_function(lambda: engine.cached_tokens)

    def count(self, usage: Usage) -> None:
        """Count the tokens of a request that ended."""
        self._prompt.inc(usage.prompt_tokens)
        self._cached.inc(usage.cached_tokens)
        self._generated.inc(usage.completion_tokens)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, about: str) -> Counter:
        return Counter(name, about, registry=self._registry)

    def _gauge(self, name: str, about: str) -> Gauge:
        return Gauge(name, about, registry=self._registry)

    def _histogram(self, name: str, about: str) -> Histogram:
        return Histogram(name, about, buckets=_SECONDS, registry=self._registry)
