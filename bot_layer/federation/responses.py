"""The responses of the federated responder: JSON, a document's bytes, refusals. None of them is ever cached.

https://hl7.org/fhir/R4/http.html#Status-Codes and https://www.rfc-editor.org/rfc/rfc9110#section-14 (ranges)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from bot_layer.federation.contents import Opened
from bot_layer.federation.rules.token import Refused
from bot_layer.fhir import outcomes
from bot_layer.fhir.json import Json, encode

PRIVATE: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_NO_STORE: Final = {"Cache-Control": "no-store", "Pragma": "no-cache"}
_RANGE: Final = re.compile(r"bytes=(\d*)-(\d*)")
_NO_BYTES: Final = range(0)


def fhir(status: int, resource: Json, headers: Mapping[str, str] | None = None) -> Response:
    """A FHIR resource."""
    return Response(encode(resource), status, {**PRIVATE, **(headers or {})}, "application/fhir+json")


def issue(
    status: int, code: str, text: str, *, issue_code: str = "processing", headers: Mapping[str, str] | None = None
) -> Response:
    """An OperationOutcome with one error."""
    return fhir(status, outcomes.outcome([outcomes.Issue(code, text, issue_code=issue_code)]), headers)


def public(value: Json, media_type: str = "application/json") -> Response:
    """What anybody may read."""
    return Response(encode(value), media_type=media_type)


def token(answer: Json | Refused, *, is_basic: bool) -> Response:
    """A token, or an OAuth error with the challenge if the login was a Basic one."""
    if not isinstance(answer, Refused):
        return Response(encode(answer), 200, _NO_STORE, "application/json")
    waits = {429: {"Retry-After": "60"}, 503: {"Retry-After": "1"}}
    headers = {**_NO_STORE, **waits.get(answer.status, {})}
    if answer.status == 401 and is_basic:
        headers["WWW-Authenticate"] = 'Basic realm="federated"'
    return Response(encode(answer.body()), answer.status, headers, "application/json")


def insufficient_scope(resource_type: str) -> Response:
    """https://www.rfc-editor.org/rfc/rfc6750#section-3.1"""
    wanted = f"system/{resource_type}.rs"
    challenge = {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{wanted}"'}
    text = f"The token's scopes do not permit this: request {wanted}."
    return issue(403, "insufficient-scope", text, headers=challenge)


def document(request: Request, opened: Opened, *, etag: str) -> Response:
    """All bytes or the requested range; the response to HEAD has the same headers and no body."""
    headers = {**PRIVATE, "Accept-Ranges": "bytes", "ETag": etag, "Content-Type": opened.content_type}
    asked = request.headers.get("Range") if request.headers.get("If-Range", etag) == etag else None
    span = byte_range(asked, opened.length)
    if span == _NO_BYTES:
        opened.close()
        return Response(status_code=416, headers={**PRIVATE, "Content-Range": f"bytes */{opened.length}"})
    length = opened.length if span is None else len(span)
    if length is not None:
        headers["Content-Length"] = str(length)
    if span is not None:
        headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{opened.length}"
    status = 200 if span is None else 206
    if request.method == "HEAD":
        opened.close()
        return Response(status_code=status, headers=headers)
    return StreamingResponse(_part(opened, span), status, headers=headers)


def byte_range(header: str | None, length: int | None) -> range | None:
    """The requested bytes, an empty range if none of them exists (416).

    None if all bytes are to be sent: no range, several, another unit, an invalid one, or an unknown length.
    """
    match = _RANGE.fullmatch(header.replace(" ", "")) if header and len(header) < 60 else None
    if match is None or length is None or match[0] == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        return range(max(0, length - int(last)), length) if int(last) else _NO_BYTES
    if last and int(last) < int(first):
        return None
    return range(int(first), min(int(last) + 1, length) if last else length)


def _part(opened: Opened, span: range | None) -> Iterator[bytes]:
    """The bytes of a range, in chunks; the source is always closed at the end."""
    place = 0
    try:
        for chunk in opened.chunks:
            following = place + len(chunk)
            if span is None:
                yield chunk
            elif following > span.start:
                yield chunk[max(0, span.start - place) : span.stop - place]
            place = following
            if span is not None and place >= span.stop:
                return
    finally:
        opened.close()


class Elsewhere:
    """An ASGI application for every other path and method, so that it replaces the framework's own error responses."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """404, or 405 with the allowed methods if the path exists with another method."""
        matching = [route for route in self._routes if route.matches(scope)[0] is not Match.NONE]
        allowed = {method for route in matching for method in route.methods or ()}
        answer = issue(404, "not-found", "There is no such address.", issue_code="not-found")
        if allowed:
            text = "This address does not support the method."
            headers = {"Allow": ", ".join(sorted(allowed))}
            answer = issue(405, "method-not-allowed", text, issue_code="not-supported", headers=headers)
        await answer(scope, receive, send)
