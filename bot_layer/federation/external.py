"""The response for unknown paths under /federated: an OperationOutcome, like every error there.

https://hl7.org/fhir/R4/http.html#Status-Codes; 405 lists the allowed methods, as
https://www.rfc-editor.org/rfc/rfc9110#section-15.5.6 requires.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from bot_layer.federation.content import PRIVATE
from bot_layer.fhir import outcomes
from bot_layer.fhir.json import encode

FHIR_JSON = "application/fhir+json"


class Elsewhere:
    """An ASGI application for every other path and method, so that it replaces the framework's own error responses."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = routes

    def beneath(self, prefix: str) -> list[Route]:
        """The routes to this application. They must come last, because the first match answers."""
        return [Route(prefix, self), Route(f"{prefix}/{{rest:path}}", self)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """404, or 405 if the path exists with another method."""
        allowed = {method for route in self._routes if _is_at(route, scope) for method in route.methods or ()}
        if allowed:
            issue = outcomes.Issue(
                "method-not-allowed", "This address does not support the method.", issue_code="not-supported"
            )
            answer = _answer(405, issue, {"Allow": ", ".join(sorted(allowed))})
        else:
            answer = _answer(404, outcomes.Issue("not-found", "There is no such address.", issue_code="not-found"), {})
        await answer(scope, receive, send)


def _is_at(route: Route, scope: Scope) -> bool:
    return route.matches(scope)[0] is not Match.NONE


def _answer(status: int, issue: outcomes.Issue, headers: dict[str, str]) -> Response:
    return Response(encode(outcomes.outcome([issue])), status, headers={**headers, **PRIVATE}, media_type=FHIR_JSON)
