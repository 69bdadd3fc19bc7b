"""The two ids under which a server logs a request; outcomes, bot events and AuditEvents carry them."""

from __future__ import annotations

import uuid
from contextvars import ContextVar
from dataclasses import dataclass, field

from medplum_sandbox.json import Json

TRACING_URL = "https://medplum.com/fhir/StructureDefinition/tracing"


@dataclass(frozen=True)
class Trace:
    """``request_id`` identifies one request, ``trace_id`` also everything that it causes."""

    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    trace_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def extension(self) -> Json:
        """The extension that shows both ids."""
        return {
            "url": TRACING_URL,
            "extension": [
                {"url": "requestId", "valueId": self.request_id},
                {"url": "traceId", "valueId": self.trace_id},
            ],
        }


TRACE: ContextVar[Trace | None] = ContextVar("trace", default=None)


def current_trace() -> Trace:
    """The ids of the request that is being answered; new ones without a request (cron)."""
    return TRACE.get() or Trace()
