"""The web side: reads a request, and answers it behind the shell that all look-alikes share."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from medplum_sandbox import shell
from medplum_sandbox.faults import Fault, Faults
from medplum_sandbox.health_gorilla.oauth import unauthorized
from medplum_sandbox.health_gorilla.outcomes import outcome
from medplum_sandbox.health_gorilla.switches import Switches
from medplum_sandbox.health_gorilla.wire import Answer, Ask
from medplum_sandbox.shell import RequestLog, Scope, Shell

BODY_LIMIT = 1024 * 1024
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
PAGE = "<!DOCTYPE html><html><head><title>Error</title></head><body><h1>Something went wrong</h1></body></html>"


Answering = Callable[[Ask, str], Answer]


class Web:
    """One endpoint for everything; ``answering`` decides. ``app`` has the shell of the look-alikes around it."""

    def __init__(self, answering: Answering, *, faults: Faults, switches: Switches, log: RequestLog) -> None:
        self._answering = answering
        self._switches = switches
        inner = Starlette(routes=[Route("/{path:path}", self._endpoint, methods=METHODS)])
        self.app = Shell(inner, log=log, faults=faults, refuse=self._refusal)

    async def _endpoint(self, request: Request) -> Response:
        body = await _body(request)
        if body is None:
            answer = Answer(413, outcome("too-long", "The body is larger than 1 MB."))
        else:
            ask = Ask(
                method=request.method,
                path=request.url.path,
                query=tuple(parse_qsl(request.url.query, keep_blank_values=True)),
                headers={name.lower(): value for name, value in request.headers.items()},
                body=body,
            )
            answer = await run_in_threadpool(self._answering, ask, str(request.url))
        sent = self._sent(answer, request.headers.get("x-request-id"))
        return Response(sent.body, sent.status, sent.headers, media_type=sent.content_type if sent.body else None)

    def _refusal(self, fault: Fault, scope: Scope) -> shell.Answer | None:
        """The answer in place of the requested work."""
        answer: Answer | None = None
        match fault.kind:
            case "too_many":
                wait = {"Retry-After": str(self._switches.retry_after_seconds)}
                headers = wait if self._switches.rate_limit_retry_after else {}
                answer = Answer(429, outcome("throttled", "Too many requests."), headers)
            case "server_error":
                answer = Answer(fault.status, outcome("exception", "Internal error."))
            case "html":
                answer = Answer(fault.status, PAGE, content_type="text/html; charset=utf-8")
            case "conflict":
                answer = Answer(409, outcome("conflict", "The resource is being changed."))
            case "expired_token" if not scope["path"].startswith("/oauth"):
                answer = unauthorized("expired_token").answer
        return self._sent(answer, Headers(scope=scope).get("x-request-id")) if answer is not None else None

    def _sent(self, answer: Answer, request_id: str | None) -> shell.Answer:
        """The answer with the ids that this server gives to every request."""
        headers = {"X-HG-Request-Id": str(uuid.uuid4()), **answer.headers}
        if request_id is not None:
            headers["X-Correlation-Id"] = request_id
        content_type = answer.content_type or f"{self._switches.content_type};charset=UTF-8"
        return shell.Answer(answer.status, answer.body(), content_type, headers)


async def _body(request: Request) -> bytes | None:
    """The body, or None where it is larger than allowed; nothing beyond the limit is kept."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size <= BODY_LIMIT:
            parts.append(part)
    return b"".join(parts) if size <= BODY_LIMIT else None
