"""The federated responder: token, DocumentReference search and document fetch, for Health Gorilla to call.

Routes for the host, all under ``/federated``, and SMART's discovery document; nothing else exists. A query is answered
with 200 and a total, which is 0 for an unknown patient. A document of another patient, or one that must not be
disclosed, is 404 like one that does not exist. https://hl7.org/fhir/R4/search.html and
https://www.hl7.org/fhir/smart-app-launch/conformance.html
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

from cachetools import TTLCache, cached
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from bot_layer import spans
from bot_layer.errors import BotError, InputError, TransientError
from bot_layer.federation import responses
from bot_layer.federation.audit import Recorder
from bot_layer.federation.rules import metadata as federation_metadata
from bot_layer.federation.rules import query as federation
from bot_layer.federation.rules import scopes
from bot_layer.federation.rules.audit import Access
from bot_layer.federation.rules.token import Refused
from bot_layer.federation.settings import ANSWERING, Answering, read_answering, read_serving
from bot_layer.federation.source import Answer, FederatedSource
from bot_layer.federation.tokens import Caller, Tokens
from bot_layer.fhir import outcomes
from bot_layer.medplum.client import connect_environment
from bot_layer.settings import resolve, secret_values

PREFIX = "/federated"
_LARGEST_BODY = 8 * 1024
_LARGEST_HEADERS = 16 * 1024
_LONGEST_QUERY = 4 * 1024
_MOST_ANSWERS = 1000
_ANSWERING_SECONDS = 60.0
_log = logging.getLogger(__name__)


def is_configured(environ: Mapping[str, str]) -> bool:
    """Whether the environment enables the responder."""
    return bool(environ.get("FEDERATED_CLIENTS"))


class Responder:
    """The responder of one Medplum project, as the environment configures it; ConfigError names what is missing.

    ``close`` writes the pending audit records.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._environ = environ
        self._serving = read_serving(environ)
        self._server = connect_environment(environ).with_local_references()
        self._clock = clock
        self.recorder = Recorder(self._server, seconds=self._serving.audit_seconds, clock=clock)
        self._tokens = Tokens(self._serving, clock)
        self._read_answering({})  # a wrong value in the environment is an error at start
        self._answering = cached(TTLCache(1, _ANSWERING_SECONDS), lock=threading.Lock())(self._current_answering)
        # The same source while the settings are unchanged, because it caches the sizes of documents.
        self._source_of = lru_cache(1)(lambda answering: FederatedSource(self._server, answering, now=self._now))
        self._answer: Callable[[str], Answer] = lambda asked_id: self._source().answer(asked_id)
        if seconds := self._serving.cache_seconds:  # an answer that is never reused is not cached
            answers: TTLCache[Any, Answer] = TTLCache(_MOST_ANSWERS, seconds, timer=monotonic)
            self._answer = cached(answers, condition=threading.Condition())(self._answer)

    def routes(self) -> list[Route]:
        """Every route of the responder, with its full path."""
        limited = [Middleware(_Limited)]
        known = [
            Route(path, endpoint, methods=[method], middleware=limited)
            for path, method, endpoint in (
                (f"{PREFIX}/oauth2/token", "POST", self.token),
                (f"{PREFIX}/fhir/R4/DocumentReference", "GET", self.search),
                (f"{PREFIX}/fhir/R4/DocumentReference/_search", "POST", self.search_by_form),
                (f"{PREFIX}/documents/{{id}}", "GET", self.document),
                (f"{PREFIX}/fhir/R4/metadata", "GET", self.metadata),
                ("/.well-known/smart-configuration", "GET", self.discovery),
                (f"{PREFIX}/.well-known/smart-configuration", "GET", self.discovery),
                (f"{PREFIX}/fhir/R4/.well-known/smart-configuration", "GET", self.discovery),
            )
        ]
        elsewhere = responses.Elsewhere(known)  # last, because the first match answers
        return [*known, Route(PREFIX, elsewhere), Route(f"{PREFIX}/{{rest:path}}", elsewhere)]

    def close(self) -> None:
        """Write the pending audit records."""
        self.recorder.close()

    async def token(self, request: Request) -> Response:
        """The token endpoint. Wrong logins are counted for the caller's address, which a trusted proxy may name."""
        authorization, body = request.headers.get("Authorization"), await _body(request)
        if body is None:
            return responses.token(Refused(413, "invalid_request", "The request is too large."), is_basic=False)
        connected = request.client.host if request.client else ""
        address = self._serving.origin(connected, request.headers.getlist("X-Forwarded-For"))
        answer = await run_in_threadpool(self._tokens.answer, body, authorization, address)
        return responses.token(answer, is_basic=authorization is not None)

    def search(self, request: Request) -> Response:
        """DocumentReference?patient=..."""
        return self._guarded(request, self._search, scopes.SEARCH)

    async def search_by_form(self, request: Request) -> Response:
        """The same search with its parameters in a form (https://hl7.org/fhir/R4/http.html#search)."""
        kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind not in {"", "application/x-www-form-urlencoded"}:
            return responses.issue(415, "invalid-input", "Send a form: application/x-www-form-urlencoded.")
        body = await _body(request)
        if body is None:
            return Response(status_code=413)
        form = parse_qsl(body.decode(errors="replace"), keep_blank_values=True)
        return await run_in_threadpool(
            self._guarded, request, lambda asked, caller: self._search(asked, caller, form), scopes.SEARCH
        )

    def document(self, request: Request) -> Response:
        """One document's bytes."""
        return self._guarded(request, self._document, *scopes.FETCH)

    def metadata(self, _request: Request) -> Response:
        """The capability statement, which is public."""
        statement = federation_metadata.capability_statement(self._serving.fhir_url, self._serving.token_url)
        return responses.public(statement, "application/fhir+json")

    def discovery(self, _request: Request) -> Response:
        """SMART's discovery document, which is public."""
        return responses.public(federation_metadata.smart_configuration(self._serving.token_url))

    def _guarded(
        self, request: Request, answer: Callable[[Request, Caller], Response], *needs: tuple[str, str]
    ) -> Response:
        """The response if the token permits one of ``needs``; failures are OperationOutcomes without personal data."""
        caller = self._tokens.caller(request.headers.get("Authorization"))
        if caller is None:
            challenge, text = {"WWW-Authenticate": "Bearer"}, "Send a token of this server."
            return responses.issue(401, "token-required", text, issue_code="login", headers=challenge)
        if not scopes.permit(caller.scopes, *needs):
            return responses.insufficient_scope(needs[0][0])
        try:
            # A partner's trace ends here: it must not continue into internal work.
            with spans.call("federated", {}) as span:
                span.annotate(name="federated-documents")
                answered = answer(request, caller)
                span.annotate(status=answered.status_code)
                return answered
        except InputError as error:
            status = 406 if isinstance(error, federation.FormatNotSupported) else 400
            return responses.fhir(status, outcomes.of_error(error))
        except BotError as error:
            _log.warning("A federated request failed: %s", error.code)
            if isinstance(error, TransientError):
                return responses.fhir(503, outcomes.of_error(error), {"Retry-After": "5"})
            return responses.fhir(500, outcomes.of_error(error))

    def _search(self, request: Request, caller: Caller, form: Sequence[tuple[str, str]] = ()) -> Response:
        base_url, fhir_url = self._serving.base_url, self._serving.fhir_url
        query = federation.read_query(
            [*request.query_params.multi_items(), *form],
            strict=federation.is_strict(request.headers.get("Prefer", "")),
            servers=(fhir_url, self._server.client.fhir_base_url),
        )
        answers = [self._answer(asked_id) for asked_id in self._source().asked_ids(query)]
        patients = tuple(patient for answer in answers for patient in answer.patients)
        self.recorder.queried(Access(caller.client, patients, None, federation.canonical(query), base_url))
        fitting = [document for answer in answers for document in answer.documents if query.fits(document)]
        return responses.fhir(200, federation.searchset(query, fitting, fhir_url))

    def _document(self, request: Request, caller: Caller) -> Response:
        number = request.query_params.get("content", "0")
        sought = self._source().opened(request.query_params.get("patient", ""), request.path_params["id"], number)
        if sought is None:
            return responses.issue(404, "not-found", "The patient has no such document.", issue_code="not-found")
        found, document, opened = sought
        reference, base_url = f"DocumentReference/{document['id']}", self._serving.base_url
        try:
            self.recorder.fetched(Access(caller.client, found.references[:1], reference, "", base_url))
        except BotError:
            opened.close()
            raise
        version = str((document.get("meta") or {}).get("versionId", ""))
        return responses.document(request, opened, etag=f'"{version}-{number}-{opened.version}"')

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)

    def _source(self) -> FederatedSource:
        """The documents that the network may see, by the settings as of at most a minute ago."""
        return self._source_of(self._answering())

    def _current_answering(self) -> Answering:
        # A login that administers the project may read its secrets.
        return self._read_answering(secret_values(self._server.project_secrets().values()))

    def _read_answering(self, secrets: Mapping[str, str]) -> Answering:
        """The settings for the answers, read as the bot reads them: each from the environment, else from the project's
        secrets."""
        document_url = f"{self._serving.base_url}/documents/{{id}}?"
        return read_answering(resolve(ANSWERING, self._environ, secrets), document_url)


class _Limited:
    """Refuses a head or a query that no caller needs, before anything is done with it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """431, 414, or the response of the route."""
        answer = self._app
        if sum(len(name) + len(value) for name, value in scope["headers"]) > _LARGEST_HEADERS:
            answer = Response(status_code=431)
        elif len(scope["query_string"]) > _LONGEST_QUERY:
            answer = Response(status_code=414)
        await answer(scope, receive, send)


async def _body(request: Request) -> bytes | None:
    """The body, or None if it is too large; reading stops at the limit."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LARGEST_BODY:
            return None
    return bytes(body)
