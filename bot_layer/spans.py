"""Where a bot's call and a request of it begin and end, for a recorder of traces; by default there is none.

Clients report their requests here, so that they need to know neither OpenTelemetry nor the runtime. A recorder is set
only by ``bot_layer.host.tracing``; without one a span costs one comparison.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self

Fact = str | int | bool | None


class Span(Protocol):
    """A piece of work, between ``with`` and its end. ``headers`` go along with the request that it stands for."""

    headers: Mapping[str, str]

    def annotate(self, **facts: Fact) -> None:
        """Words, codes and counts of what came of it: never an id, a name or a token."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class Recorder(Protocol):
    """Who records spans. None of these may raise."""

    def call(self, transport: str, envelope: Mapping[str, Any], traceparent: str | None) -> Span:
        """The span of one call of a bot; requests made meanwhile belong to it."""

    def request(self, service: str, method: str, url: str, path: str | None) -> Span:
        """The span of one request; ``path`` is the template that stands for the URL, where there is one."""

    def traceparent(self) -> str | None:
        """The call that is under way, in W3C's words."""


class _Nothing:
    """The span without a recorder."""

    headers: Mapping[str, str] = {}

    def annotate(self, **facts: Fact) -> None:
        """Goes nowhere."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing ends."""


NOTHING: Span = _Nothing()
_recorders: list[Recorder] = []


def record_with(recorder: Recorder | None) -> None:
    """From now on this recorder gets every span of the process; None ends it."""
    _recorders[:] = [recorder] if recorder is not None else []


def call(transport: str, envelope: Mapping[str, Any], traceparent: str | None = None) -> Span:
    """The span of one call of a bot. ``traceparent`` is the header that came with it."""
    return _recorders[-1].call(transport, envelope, traceparent) if _recorders else NOTHING


def request(service: str, method: str, url: str, path: str | None = None) -> Span:
    """The span of one request to a service."""
    return _recorders[-1].request(service, method, url, path) if _recorders else NOTHING


def traceparent() -> str | None:
    """The current call, for a later continuation; None without a recorder."""
    return _recorders[-1].traceparent() if _recorders else None
