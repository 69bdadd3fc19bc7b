"""Answers that a test defines in place of the look-alike's own, for behavior of only some sources."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send


@dataclass
class Canned:
    """The answer to requests whose path and query contain ``part``; ``times`` bounds how often it is given."""

    part: str
    body: object = b""
    status: int = 200
    content_type: str = "application/fhir+json"
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "GET"
    times: int | None = None
    unless: str = ""  # not if the query contains this

    def fits(self, request: Request) -> bool:
        """True if this answers the request; it is then used up once."""
        place = f"{request.url.path}?{request.url.query}"
        if request.method != self.method or self.part not in place or (self.unless and self.unless in place):
            return False
        if self.times is not None:
            if not self.times:
                return False
            self.times -= 1
        return True

    def response(self) -> Response:
        """The answer; anything else than bytes is written as JSON."""
        body = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        headers = {"Content-Type": self.content_type, **self.headers} if self.content_type else dict(self.headers)
        return Response(body, self.status, headers)


def with_canned(app: ASGIApp, canned: Callable[[], list[Canned]]) -> ASGIApp:
    """The app behind the written answers, the first of which fits."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        found = next((each for each in canned() if each.fits(request)), None)
        await (found.response() if found is not None else app)(scope, receive, send)

    return answer
