"""Where a bot's call and a request of it begin and end, for a recorder of traces; by default nothing is recorded.

Clients report their requests here, so they need to know neither OpenTelemetry nor the host. Only
``bot_layer.host.tracing`` sets a recorder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

Fact = str | int | bool | None


class Span:
    """A piece of work from ``with`` to its end. This one is not recorded.

    ``headers`` are sent with the request that the span stands for.
    """

    headers: Mapping[str, str] = {}

    def annotate(self, **facts: Fact) -> None:
        """Record names, codes and counts of the outcome: never an id, a person's name or a token."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


NOTHING = Span()


class Recorder:
    """Makes the spans. This one records nothing. No method may raise."""

    def call(self, transport: str, envelope: Mapping[str, Any], traceparent: str | None) -> Span:  # noqa: ARG002
        """The span of one call of a bot; the requests made during it belong to it."""
        return NOTHING

    def request(self, service: str, method: str, url: str, path: str | None) -> Span:  # noqa: ARG002
        """The span of one request; ``path`` is the template of the URL, if there is one."""
        return NOTHING

    def traceparent(self) -> str | None:
        """The current call as a W3C ``traceparent``, to continue its trace later."""
        return None


_recorders = [Recorder()]


def record_with(recorder: Recorder | None) -> None:
    """From now on this recorder gets every span of the process; with None, nothing is recorded."""
    _recorders[:] = [recorder or Recorder()]


def call(transport: str, envelope: Mapping[str, Any], traceparent: str | None = None) -> Span:
    """The span of one call of a bot. ``traceparent`` is the header of the call."""
    return _recorders[0].call(transport, envelope, traceparent)


def request(service: str, method: str, url: str, path: str | None = None) -> Span:
    """The span of one request to a service."""
    return _recorders[0].request(service, method, url, path)


def traceparent() -> str | None:
    """The current call, to continue its trace later; None if nothing is recorded."""
    return _recorders[0].traceparent()
