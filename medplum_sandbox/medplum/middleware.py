"""The gate before every endpoint: the limits by address, the faults, and the RateLimit headers."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from medplum_sandbox.faults import KINDS, Fault
from medplum_sandbox.medplum.calls import Answer, json_answer, outcome_answer
from medplum_sandbox.medplum.outcomes import too_many_requests, unauthorized
from medplum_sandbox.medplum.quota import METER, WINDOW_SECONDS, Meter, exhausted
from medplum_sandbox.medplum.world import World
from medplum_sandbox.shell import Message, RequestLog, Scope, Shell, give

# Conflicts strike where a condition is looked up, all others here.
_STRIKING = tuple(kind for kind in KINDS if kind != "conflict")
_PAGE = b"<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
_AUTH_PATHS = ("/auth/", "/oauth2/")


@dataclass
class RequestCounter:
    """Requests in the last minute, by address and kind."""

    limits: dict[str, int]
    clock: Callable[[], float] = time.monotonic
    _times: dict[tuple[str, str], deque[float]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, kind: str, address: str) -> int:
        """How many are left after this one; negative when there was none left."""
        now = self.clock()
        with self._lock:
            times = self._times.setdefault((kind, address), deque())
            while times and now - times[0] >= WINDOW_SECONDS:
                times.popleft()
            left = self.limits[kind] - len(times) - 1
            if left >= 0:
                times.append(now)
            return left


class Gate:
    """ASGI middleware around the look-alike's app: the limits by address, and the RateLimit headers of every answer."""

    def __init__(self, app: Any, world: World) -> None:
        self._world = world
        self.requests = RequestLog()
        self._shell = Shell(
            app, log=self.requests, faults=world.faults, refuse=lambda fault, _: _refusal(fault, world), kinds=_STRIKING
        )
        settings = world.settings
        self._counter = RequestCounter({"auth": settings.auth_rate_limit, "all": settings.requests_per_minute})

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Answers one request."""
        method, path = scope["method"], scope["path"]
        meter = Meter()
        METER.set(meter)
        kind = "auth" if path.startswith(_AUTH_PATHS) else "all"
        left = self._counter.take(kind, scope["client"][0] if scope.get("client") else "")
        requests = f'"requests";r={max(left, 0)};t=60'
        shows_units = _shows_units(method, path)

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                lines = [requests, meter.header() if shows_units or meter.forced else None]
                message["headers"] = [*message["headers"], *((b"ratelimit", line.encode()) for line in lines if line)]
            await send(message)

        if left < 0:
            error = too_many_requests()
            self.requests.add(scope, error.status)
            await give(outcome_answer(error.status, error.outcome), sending)
        else:
            await self._shell(scope, receive, sending)


def _refusal(fault: Fault, world: World) -> Answer:
    """How this server words a fault."""
    match fault.kind:
        case "too_many":
            return _throttled(fault, world.settings.quota)
        case "html":
            return Answer(fault.status, _PAGE, "text/html; charset=utf-8")
        case "expired_token":
            error = unauthorized()
            return outcome_answer(error.status, error.outcome)
    return json_answer(fault.status, {"msg": "Internal Server Error"})


def _shows_units(method: str, path: str) -> bool:
    """Whether the answer tells how much quota is left: the FHIR router's do, those of raw content and others do not."""
    raw = path == "/fhir/R4/Binary" if method == "POST" else path.startswith("/fhir/R4/Binary/") and method != "DELETE"
    return path.startswith("/fhir/R4") and not raw


def _throttled(fault: Fault, limit: int) -> Answer:
    """The recorded 429: the quota is used up, and comes back after the fault's seconds."""
    meter = METER.get()
    if meter is not None:
        meter.remaining, meter.seconds, meter.forced = 0, math.ceil(fault.seconds), True
    error = too_many_requests(exhausted(limit, used=limit + 1, left_ms=round(fault.seconds * 1000)))
    return outcome_answer(error.status, error.outcome)
