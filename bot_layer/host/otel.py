"""Spans by OpenTelemetry's SDK: a bot's calls, and the requests made in them, without personal data.

It does not use the instrumentation packages for requests and httpx: they record whole URLs, and ours name patients. It
sets no global provider either, so that spans of other libraries stay out (DBOS would name its workflows, whose ids name
resources). Attributes follow OpenTelemetry's semantic conventions where they define one:
https://opentelemetry.io/docs/specs/semconv/http/http-spans/
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import wraps
from importlib.metadata import version
from typing import Any, Final, ParamSpec, Self, TypeVar
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from bot_layer import spans
from bot_layer.errors import BotError, InputError, ReviewNeeded
from bot_layer.host.logs import standard_error
from bot_layer.http.path_template import of_path, of_template

_NAME: Final = "medplum-python-bots"
# Services that receive our trace ids: a partner does not need internal ids.
_INSIDE: Final = "Medplum"
_ATTRIBUTES: Final = {
    "code": "error.type",
    "status": "http.response.status_code",
    "resent": "http.request.resend_count",
}
_WORD: Final = re.compile(r"[a-z][a-z0-9]{0,30}(-[a-z0-9]{1,30}){0,10}")
# Medplum's trace id is a UUID, or the traceparent that its caller sent. Any other value is not trusted.
_TRACE_ID: Final = re.compile(r"[0-9a-fA-F-]{8,64}")
_LAST_SECONDS: Final = 5.0
_w3c = TraceContextTextMapPropagator()
_log = logging.getLogger(__name__)
_P = ParamSpec("_P")
_T = TypeVar("_T")
_Other = TypeVar("_Other")


def _quietly(otherwise: _Other) -> Callable[[Callable[_P, _T]], Callable[_P, _T | _Other]]:
    """Return ``otherwise`` if the function fails: a fault of tracing must never break a call."""

    def decorate(work: Callable[_P, _T]) -> Callable[_P, _T | _Other]:
        @wraps(work)
        def safe(*given: _P.args, **named: _P.kwargs) -> _T | _Other:
            try:
                return work(*given, **named)
            except Exception as fault:  # noqa: BLE001  # as above
                _log.warning("A span was lost: %s", type(fault).__name__)
                return otherwise

        return safe

    return decorate


def exporting(exporter: str) -> SpanProcessor:
    """Exports spans in batches, in its own thread, to a collector or, like the log, to standard error."""
    if exporter == "console":
        console = ConsoleSpanExporter(out=standard_error(), formatter=lambda span: f"{span.to_json(indent=None)}\n")
        return BatchSpanProcessor(console)
    return BatchSpanProcessor(OTLPSpanExporter())


class Tracer(spans.Recorder):
    """The tracer of this process, from its creation until ``close``."""

    def __init__(self, processor: SpanProcessor) -> None:
        self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer(_NAME, version(_NAME))

    @_quietly(spans.NOTHING)
    def call(self, transport: str, envelope: Mapping[str, Any], traceparent: str | None) -> spans.Span:
        """One call of a bot, as part of the caller's trace if there is one."""
        trace_id = envelope.get("traceId")
        parent = next(filter(None, map(_parent, (traceparent, _header(envelope, "traceparent"), trace_id))), None)
        attributes = {"bot.transport": transport}
        if isinstance(trace_id, str) and _TRACE_ID.fullmatch(trace_id):
            attributes["medplum.trace_id"] = trace_id
        kind = SpanKind.CONSUMER if transport == "inbox" else SpanKind.SERVER
        # Without its own context, a call would belong to whatever this thread did before.
        context = trace.set_span_in_context(trace.NonRecordingSpan(parent) if parent else trace.INVALID_SPAN)
        return _Span(self._tracer.start_span("bot", context, kind, attributes), is_call=True)

    @_quietly(spans.NOTHING)
    def request(self, service: str, method: str, url: str, path: str | None) -> spans.Span:
        """One request to Medplum or a partner."""
        parts = urlsplit(url)
        template = of_template(path) if path else of_path(parts.path)
        attributes: dict[str, str | int] = {
            "http.request.method": method,
            "url.template": template,
            "peer.service": service,
            "server.address": parts.hostname or "",
            "server.port": parts.port or (443 if parts.scheme == "https" else 80),
        }
        span = self._tracer.start_span(f"{method} {template}", None, SpanKind.CLIENT, attributes)
        return _Span(span, headers=_headers(span) if service == _INSIDE else {})

    @_quietly(None)
    def traceparent(self) -> str | None:
        """The traceparent of the current call."""
        return _headers(trace.get_current_span()).get("traceparent")

    def close(self) -> None:
        """Send the pending spans; a collector that does not answer delays this only briefly."""
        sending = threading.Thread(target=_quietly(None)(self._provider.shutdown), daemon=True)
        sending.start()
        sending.join(_LAST_SECONDS)


class _Span(spans.Span):
    """An SDK span behind the interface that the clients and the runtime use."""

    def __init__(self, span: trace.Span, *, is_call: bool = False, headers: Mapping[str, str] | None = None) -> None:
        self.headers: Mapping[str, str] = headers or {}
        self._span, self._is_call, self._current = span, is_call, ExitStack()

    @_quietly(None)
    def annotate(self, **facts: spans.Fact) -> None:
        """Set each fact as an attribute; text that is not a known code or name is left out."""
        for name, value in facts.items():
            if value is None or (isinstance(value, str) and not _WORD.fullmatch(value)):
                continue
            self._span.set_attribute(_ATTRIBUTES.get(name, f"bot.{name}"), value)
            if name == "name":
                self._span.update_name(f"bot {value}")
            # A refusal is an error of the request that it answers, but not of the call that gives it.
            least = 500 if self._is_call else 400
            if (name, value) == ("success", False) or (name == "status" and isinstance(value, int) and value >= least):
                self._span.set_status(StatusCode.ERROR)

    def __enter__(self) -> Self:
        if self._is_call:
            self._begin()
        return self

    @_quietly(None)
    def _begin(self) -> None:
        current = trace.use_span(self._span, record_exception=False, set_status_on_exception=False)
        self._current.enter_context(current)

    @_quietly(None)
    def __exit__(self, *raised: object) -> None:
        error = raised[1]
        self._current.close()
        if isinstance(error, BaseException):  # its type, never its text
            self.annotate(code=error.code if isinstance(error, BotError) else type(error).__name__.lower())
            if not isinstance(error, InputError | ReviewNeeded):
                self._span.set_status(StatusCode.ERROR)
        self._span.end()


def _resource() -> Resource:
    """The service that writes the traces, as named in the environment."""
    found = Resource.create({SERVICE_VERSION: version(_NAME)})
    is_named = not str(found.attributes.get(SERVICE_NAME, "unknown_service")).startswith("unknown_service")
    return found if is_named else found.merge(Resource({SERVICE_NAME: _NAME}))


def _parent(traceparent: Any) -> trace.SpanContext | None:
    """The caller's span; its tracestate and baggage are left out, because they may carry anything."""
    if not isinstance(traceparent, str):
        return None
    found = trace.get_current_span(_w3c.extract({"traceparent": traceparent})).get_span_context()
    return found if found.is_valid else None


def _headers(span: trace.Span) -> dict[str, str]:
    carrier: dict[str, str] = {}
    _w3c.inject(carrier, trace.set_span_in_context(span))
    return {name: value for name, value in carrier.items() if name == "traceparent"}


def _header(envelope: Mapping[str, Any], wanted: str) -> Any:
    headers = envelope.get("headers")
    found = headers.items() if isinstance(headers, dict) else ()
    return next((value for name, value in found if str(name).lower() == wanted), None)
