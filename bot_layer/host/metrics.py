"""A host's metrics in the Prometheus text format. Labels are bot names and codes, never personal data.

https://prometheus.io/docs/concepts/data_model/
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from bot_layer.host.invoke import Result

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The metrics of one host."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._calls = Counter(
            "bot_calls", "Calls by bot and result: ok, a code, or queued", ["bot", "result"], registry=self._registry
        )
        self._seconds = Histogram("bot_seconds", "How long calls took", ["bot"], registry=self._registry)
        self._running = Gauge("bot_calls_running", "Calls that are being answered", registry=self._registry)
        self._inbox = Gauge("bot_inbox_runs", "Runs in the inbox by state", ["state"], registry=self._registry)

    def running(self) -> AbstractContextManager[None]:
        """Counts a call as running within this context."""
        return self._running.track_inprogress()

    def ended(self, bot: str | None, result: Result, seconds: float) -> None:
        """Count a result; the label ``-`` is for a call that reached no bot."""
        word = "queued" if result.queued else result.error.code if result.error else "ok"
        self._calls.labels(bot or "-", word).inc()
        if bot is not None:
            self._seconds.labels(bot).observe(seconds)

    def page(self, inbox: dict[str, int]) -> bytes:
        """The page that Prometheus reads."""
        for state, count in inbox.items():
            self._inbox.labels(state).set(count)
        return generate_latest(self._registry)
