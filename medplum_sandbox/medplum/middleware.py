"""The gate before every endpoint: counts and records requests, lets faults happen, and writes the RateLimit headers."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from medplum_sandbox.faults import KINDS, Fault
from medplum_sandbox.medplum.calls import FHIR_TYPE, Answer, json_answer, outcome_answer
from medplum_sandbox.medplum.outcomes import too_many_requests, unauthorized
from medplum_sandbox.medplum.quota import METER, WINDOW_SECONDS, Meter, exhausted
from medplum_sandbox.medplum.world import World
from medplum_sandbox.server import RESET_EXTENSION

# Conflicts strike where a condition is looked up, all others here.
_STRIKING = tuple(kind for kind in KINDS if kind != "conflict")
_PAGE = b"<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
_AUTH_PATHS = ("/auth/", "/oauth2/")
Scope = MutableMapping[str, Any]


@dataclass(frozen=True)
class RequestRecord:
    """One request as it came, and the status that it was answered with (0: the connection was cut)."""

    method: str
    path: str
    query: str
    status: int


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
    """ASGI middleware around the look-alike's app; ``requests`` holds what came, in order of the answers."""

    def __init__(self, app: Any, world: World) -> None:
        self._app = app
        self._world = world
        settings = world.settings
        self._counter = RequestCounter({"auth": settings.auth_rate_limit, "all": settings.requests_per_minute})
        self.requests: list[RequestRecord] = []

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Answers one request."""
        method, path = scope["method"], scope["path"]
        meter = Meter()
        METER.set(meter)
        kind = "auth" if path.startswith(_AUTH_PATHS) else "all"
        left = self._counter.take(kind, scope["client"][0] if scope.get("client") else "")
        shown = meter if _shows_units(method, path) else Meter()
        query = scope.get("query_string", b"").decode("latin-1")

        def record(status: int) -> None:
            self.requests.append(RequestRecord(method, path, query, status))

        answered = _Answered(send, f'"requests";r={max(left, 0)};t=60', shown, record)
        fault = self._world.faults.strike(method, path, _STRIKING)
        if left < 0:
            error = too_many_requests()
            await answered.give(outcome_answer(error.status, error.outcome))
        elif fault is None:
            await self._app(scope, receive, answered)
        else:
            await self._with_fault(fault, scope, receive, answered)

    async def _with_fault(self, fault: Fault, scope: Scope, receive: Any, answered: _Answered) -> None:
        if fault.kind in ("reset_after_write", "empty_body"):
            await self._app(scope, receive, _swallow)
        match fault.kind:
            case "reset_before_write" | "reset_after_write":
                answered.record(0)
                scope["extensions"][RESET_EXTENSION]["abort"]()
            case "slow":
                await asyncio.sleep(fault.seconds)
                await self._app(scope, receive, answered)
            case "too_many":
                await answered.give(_throttled(fault, self._world.settings.quota, answered.meter))
            case "empty_body":
                await answered.give(Answer(200, b"", FHIR_TYPE))
            case "html":
                await answered.give(Answer(fault.status, _PAGE, "text/html; charset=utf-8"))
            case "expired_token":
                error = unauthorized()
                await answered.give(outcome_answer(error.status, error.outcome))
            case _:
                await answered.give(json_answer(fault.status, {"msg": "Internal Server Error"}))


class _Answered:
    """The way out: adds the RateLimit lines, and records the status before anybody can see the answer."""

    def __init__(self, send: Any, requests: str, meter: Meter, record: Callable[[int], None]) -> None:
        self._send = send
        self._requests = requests
        self.meter = meter
        self.record = record

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.record(message["status"])
            lines = [self._requests, self.meter.header()]
            message["headers"] = [*message["headers"], *((b"ratelimit", line.encode()) for line in lines if line)]
        await self._send(message)

    async def give(self, answer: Answer) -> None:
        """Sends an answer without asking the app."""
        headers = {"content-type": answer.content_type, "content-length": str(len(answer.body)), **answer.headers}
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self({"type": "http.response.start", "status": answer.status, "headers": raw})
        await self({"type": "http.response.body", "body": answer.body})


def _shows_units(method: str, path: str) -> bool:
    """Whether the answer tells how much quota is left: the FHIR router's do, those of raw content and others do not."""
    raw = path == "/fhir/R4/Binary" if method == "POST" else path.startswith("/fhir/R4/Binary/") and method != "DELETE"
    return path.startswith("/fhir/R4") and not raw


async def _swallow(message: MutableMapping[str, Any]) -> None:
    """The answer that never arrives."""


def _throttled(fault: Fault, limit: int, meter: Meter) -> Answer:
    """The recorded 429: the quota is used up, and comes back after the fault's seconds."""
    meter.remaining, meter.seconds = 0, math.ceil(fault.seconds)
    error = too_many_requests(exhausted(limit, used=limit + 1, left_ms=round(fault.seconds * 1000)))
    return outcome_answer(error.status, error.outcome)
