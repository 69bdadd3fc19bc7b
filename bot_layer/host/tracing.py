"""Whether this process writes traces: enabled by OpenTelemetry's own variables; without them, tracing costs nothing.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/. The SDK is in the extra ``otel`` and
is imported only if needed. Wrong settings cause only a warning: tracing never prevents a host from working.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from bot_layer import spans

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_log = logging.getLogger(__name__)


def asked_for(environ: Mapping[str, str]) -> str | None:
    """The exporter that the environment selects, ``otlp`` or ``console``; None if traces are off, or not possible."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    named = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    exporter = named or ("otlp" if any(environ.get(name) for name in ENDPOINTS) else "none")
    protocol = next((environ[name] for name in _PROTOCOLS if environ.get(name)), "http/protobuf")
    if exporter not in {"otlp", "console", "none"}:
        _log.warning("No traces are written: OTEL_TRACES_EXPORTER can be otlp, console or none.")
    elif exporter == "otlp" and protocol != "http/protobuf":
        _log.warning("No traces are written: OTEL_EXPORTER_OTLP_PROTOCOL can be http/protobuf only.")
    elif exporter != "none":
        return exporter
    return None


@contextmanager
def recorded(environ: Mapping[str, str]) -> Iterator[None]:
    """Traces are written within this context, if the environment enables them; pending spans are sent at the end."""
    exporter = asked_for(environ)
    if exporter is None:
        yield
        return
    try:
        from bot_layer.host.otel import Tracer, exporting  # noqa: PLC0415  # the SDK is optional, and slow to import
    except ImportError:
        _log.warning("No traces are written: pip install 'medplum-python-bots[otel]'.")
        yield
        return
    tracer = Tracer(exporting(exporter))
    spans.record_with(tracer)
    try:
        yield
    finally:
        spans.record_with(None)
        tracer.close()
