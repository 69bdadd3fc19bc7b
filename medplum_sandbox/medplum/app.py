"""The ASGI app: routes, authentication, and the translation of errors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from html import escape

import orjson
from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from medplum_sandbox.json import Json
from medplum_sandbox.medplum import binary_routes, bot_half, capability, fhir_routes, oauth
from medplum_sandbox.medplum.calls import JSON_TYPE, Answer, Call, is_text, outcome_answer, server_error
from medplum_sandbox.medplum.middleware import Gate
from medplum_sandbox.medplum.outcomes import FhirError, bad_request, content_too_large, not_found
from medplum_sandbox.medplum.trace import TRACE, Trace
from medplum_sandbox.medplum.world import Actor, World

Endpoint = Callable[[World, Call], Answer]
LOG = logging.getLogger(__name__)
WAITING_CALLERS = 200
NOBODY = Actor(project="", membership={"profile": {}}, profile={})
_TYPE = "/fhir/R4/{type:str}"

# Without a token; the routes that need one follow below.
_OPEN: tuple[tuple[tuple[str, ...], str, Endpoint], ...] = (
    (("GET",), "/healthcheck", lambda world, _call: _json(capability.health(world.settings.version))),
    (
        ("GET",),
        "/fhir/R4/metadata",
        lambda world, _call: _json(capability.capability_statement(world.base_url, world.settings.version)),
    ),
    (
        ("GET",),
        "/fhir/R4/.well-known/smart-configuration",
        lambda world, _call: _json(capability.smart_configuration(world.base_url)),
    ),
    (("GET",), "/.well-known/jwks.json", lambda world, _call: _json(world.token_keys.key_set())),
    (("POST",), "/oauth2/token", lambda world, call: oauth.token_answer(world, call.headers, call.body)),
    (("GET",), "/storage/{id}/{version}", binary_routes.storage),
)
_FHIR: tuple[tuple[tuple[str, ...], str, Endpoint], ...] = (
    (("GET",), "/auth/me", lambda world, call: _json(oauth.me(world, call.actor))),
    (("POST",), "/fhir/R4", fhir_routes.run_batch),
    (("POST",), "/fhir/R4/", fhir_routes.run_batch),
    (("GET",), "/fhir/R4/job/{id}/status", fhir_routes.job_status),
    (("POST",), "/fhir/R4/Binary", binary_routes.create),
    (("GET",), "/fhir/R4/Binary/{id}", binary_routes.read),
    (("PUT",), "/fhir/R4/Binary/{id}", binary_routes.update),
    (("POST",), f"{_TYPE}/_search", fhir_routes.search_by_form),
    (("GET",), _TYPE, fhir_routes.search_type),
    (("POST",), _TYPE, fhir_routes.create),
    (("PUT",), _TYPE, fhir_routes.conditional_update),
    (("PATCH",), _TYPE, fhir_routes.conditional_patch),
    (("DELETE",), _TYPE, fhir_routes.conditional_delete),
    (("GET",), f"{_TYPE}/{{id}}", fhir_routes.read),
    (("PUT",), f"{_TYPE}/{{id}}", fhir_routes.update),
    (("PATCH",), f"{_TYPE}/{{id}}", fhir_routes.patch),
    (("DELETE",), f"{_TYPE}/{{id}}", fhir_routes.delete),
    (("GET",), f"{_TYPE}/{{id}}/_history", fhir_routes.history),
    (("GET",), f"{_TYPE}/{{id}}/_history/{{version}}", fhir_routes.vread),
)


_NO_PAGE = (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>Error</title>\n</head>\n'
    "<body>\n<pre>{}</pre>\n</body>\n</html>\n"
)


def build_app(world: World, gate: Callable[[Starlette], Gate]) -> Gate:
    """The look-alike behind its gate; ``$operations`` come first, because their names also match as ids."""
    routes = [_route(world, *one, authenticated=False) for one in _OPEN]
    # Bots call back while their caller waits: with shared threads, waiting callers could leave none for the bots.
    threads = CapacityLimiter(WAITING_CALLERS)
    routes += [_route(world, *one, threads=threads) for one in bot_half.routes(world)]
    routes += [_route(world, *one) for one in _FHIR]
    every = ("GET", "POST", "PUT", "PATCH", "DELETE")
    routes.append(_route(world, every, "/{rest:path}", _nowhere))
    app = Starlette(routes=routes)
    app.router.redirect_slashes = False
    return gate(app)


def answer(world: World, endpoint: Endpoint, call: Callable[[], Call]) -> Answer:
    """What the endpoint answers; an error as its outcome."""
    try:
        return endpoint(world, call())
    except FhirError as error:
        return outcome_answer(error.status, error.outcome, headers=error.headers)
    except Exception:  # as the server: an unexpected exception is a 500 without a reason
        LOG.exception("An endpoint of the sandbox failed")
        return server_error()


def _route(
    world: World,
    methods: Iterable[str],
    path: str,
    endpoint: Endpoint,
    *,
    authenticated: bool = True,
    threads: CapacityLimiter | None = None,
) -> Route:
    async def handle(request: Request) -> Response:
        body = await request.body()
        TRACE.set(Trace())

        def call() -> Call:
            headers = {name.lower(): value for name, value in request.headers.items()}
            actor = oauth.authenticate(world, headers) if authenticated else NOBODY
            _check_size(world, request, headers, body)
            return Call(
                method=request.method,
                target=_target(request),
                headers=headers,
                body=body,
                actor=actor,
                parameters=dict(request.path_params),
            )

        found = await run_sync(answer, world, endpoint, call, limiter=threads)
        if request.method == "GET" and _is_known(request.headers.get("if-none-match"), found):
            return Response(status_code=304, headers=found.headers)
        return _response(found)

    return Route(path, handle, methods=list(methods))


def _is_known(wanted: str | None, found: Answer) -> bool:
    """Whether the caller has this version: a conditional read (RFC 9110, section 13.1.2), compared weakly."""
    etag = found.headers.get("ETag")
    if wanted is None or etag is None or found.status != 200:
        return False
    return wanted.strip() == "*" or etag in [f"W/{one.strip().removeprefix('W/')}" for one in wanted.split(",")]


def _response(found: Answer) -> Response:
    response = Response(found.body, found.status, found.headers)
    response.headers["content-type"] = found.content_type
    return response


def _target(request: Request) -> str:
    query = request.url.query
    return f"{request.url.path}?{query}" if query else request.url.path


def _check_size(world: World, request: Request, headers: dict[str, str], body: bytes) -> None:
    """JSON is limited, text more so; an asynchronous batch may be larger, and raw content has no such limit."""
    kind, settings = headers.get("content-type", ""), world.settings
    if request.url.path.startswith("/fhir/R4/Binary"):
        return
    larger = request.url.path.rstrip("/") == "/fhir/R4" and headers.get("prefer") == "respond-async"
    if "json" in kind:
        limit = settings.max_batch_size if larger else settings.max_json_size
    elif is_text(kind.partition(";")[0].strip().lower()) and settings.behavior.content_too_large:
        limit = settings.max_text_size
    else:
        return
    if len(body) > limit:
        raise content_too_large() if settings.behavior.content_too_large else bad_request("File too large")


def _json(body: Json) -> Answer:
    return Answer(200, orjson.dumps(body), JSON_TYPE)


def _nowhere(world: World, call: Call) -> Answer:  # noqa: ARG001  # an endpoint like every other
    """The server's own 404, and outside of the FHIR API that of its web framework."""
    if call.target.startswith("/fhir/R4"):
        raise not_found()
    text = f"Cannot {call.method} {escape(call.target.partition('?')[0])}"
    return Answer(404, _NO_PAGE.format(text).encode(), "text/html; charset=utf-8")
