"""The web side: reads a request, lets the faults strike, answers, and keeps a record of method, path and status."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from medplum_sandbox.faults import Fault, Faults
from medplum_sandbox.health_gorilla.oauth import unauthorized
from medplum_sandbox.health_gorilla.outcomes import outcome
from medplum_sandbox.health_gorilla.switches import Switches
from medplum_sandbox.health_gorilla.wire import Answer, Ask
from medplum_sandbox.server import RESET_EXTENSION

BODY_LIMIT = 1024 * 1024
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
PAGE = "<!DOCTYPE html><html><head><title>Error</title></head><body><h1>Something went wrong</h1></body></html>"


@dataclass(frozen=True)
class Record:
    """One request that came in. The status is 0 where the connection was cut."""

    method: str
    path: str
    status: int
    query: str = ""


class Records:
    """The requests in the order of their answers."""

    def __init__(self) -> None:
        self._records: list[Record] = []
        self._lock = threading.Lock()

    def add(self, record: Record) -> None:
        """Remembers one more."""
        with self._lock:
            self._records.append(record)

    def all(self) -> list[Record]:
        """A copy of what came so far."""
        with self._lock:
            return list(self._records)

    def clear(self) -> None:
        """Forgets what came so far."""
        with self._lock:
            self._records.clear()


Answering = Callable[[Ask, str], Answer]


class Web:
    """One endpoint for everything; ``answering`` decides."""

    def __init__(self, answering: Answering, *, faults: Faults, switches: Switches, records: Records) -> None:
        self._answering = answering
        self._faults = faults
        self._switches = switches
        self._records = records
        self.app = Starlette(routes=[Route("/{path:path}", self._endpoint, methods=METHODS)])

    async def _endpoint(self, request: Request) -> Response:
        path = request.url.path
        body = await _body(request)
        if body is None:
            return self._respond(request, Answer(413, outcome("too-long", "The body is larger than 1 MB.")))
        ask = Ask(
            method=request.method,
            path=path,
            query=tuple(parse_qsl(request.url.query, keep_blank_values=True)),
            headers={name.lower(): value for name, value in request.headers.items()},
            body=body,
        )
        fault = self._faults.strike(request.method, path)
        if fault is not None and fault.kind == "slow":
            await asyncio.sleep(fault.seconds)
            fault = None
        instead = self._instead(fault, path) if fault is not None else None
        if instead is not None:
            return self._respond(request, instead)
        if fault is not None and fault.kind == "reset_before_write":
            return self._cut(request)
        answer = await run_in_threadpool(self._answering, ask, str(request.url))
        if fault is not None and fault.kind == "reset_after_write":
            return self._cut(request)
        if fault is not None and fault.kind == "empty_body":
            answer = Answer(answer.status, None, answer.headers)
        return self._respond(request, answer)

    def _instead(self, fault: Fault, path: str) -> Answer | None:
        """What is answered in place of doing what was asked."""
        match fault.kind:
            case "too_many":
                wait = {"Retry-After": str(self._switches.retry_after_seconds)}
                headers = wait if self._switches.rate_limit_retry_after else {}
                return Answer(429, outcome("throttled", "Too many requests."), headers)
            case "server_error":
                return Answer(fault.status, outcome("exception", "Internal error."))
            case "html":
                return Answer(fault.status, PAGE, content_type="text/html; charset=utf-8")
            case "conflict":
                return Answer(409, outcome("conflict", "The resource is being changed."))
            case "expired_token" if not path.startswith("/oauth"):
                return unauthorized("expired_token").answer
            case _:
                return None

    def _respond(self, request: Request, answer: Answer) -> Response:
        self._records.add(Record(request.method, request.url.path, answer.status, request.url.query))
        headers = {"X-HG-Request-Id": str(uuid.uuid4()), **answer.headers}
        if "x-request-id" in request.headers:
            headers["X-Correlation-Id"] = request.headers["x-request-id"]
        media_type = answer.content_type or f"{self._switches.content_type};charset=UTF-8"
        body = answer.body()
        return Response(body, answer.status, headers, media_type=media_type if body else None)

    def _cut(self, request: Request) -> Response:
        """Cuts the connection; the response that is returned reaches nobody."""
        self._records.add(Record(request.method, request.url.path, 0, request.url.query))
        extension: dict[str, Any] = request.scope["extensions"][RESET_EXTENSION]
        extension["abort"]()
        return Response(status_code=500)


async def _body(request: Request) -> bytes | None:
    """The body, or None where it is larger than allowed; nothing beyond the limit is kept."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size <= BODY_LIMIT:
            parts.append(part)
    return b"".join(parts) if size <= BODY_LIMIT else None
