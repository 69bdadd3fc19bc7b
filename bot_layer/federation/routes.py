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
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

from cachetools import TTLCache, cached
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bot_layer import spans
from bot_layer.errors import BotError, InputError, TransientError
from bot_layer.federation.audit import Recorder
from bot_layer.federation.content import PRIVATE, document_answer
from bot_layer.federation.external import FHIR_JSON, Elsewhere
from bot_layer.federation.rules import metadata as federation_metadata
from bot_layer.federation.rules import proxies as federation_proxies
from bot_layer.federation.rules import query as federation
from bot_layer.federation.rules import scopes
from bot_layer.federation.rules.audit import Access
from bot_layer.federation.rules.settings import ANSWERING, Answering, Serving, read_answering, read_serving
from bot_layer.federation.rules.token import Refused
from bot_layer.federation.source import FederatedSource, Found
from bot_layer.federation.tokens import Attempts, Caller, Issued, Tokens
from bot_layer.fhir import outcomes
from bot_layer.fhir.json import Json, encode
from bot_layer.medplum.client import Medplum, connect_environment
from bot_layer.settings import resolve, secret_values

PREFIX = "/federated"
_LARGEST_BODY = 8 * 1024
_LARGEST_HEADERS = 16 * 1024
_LONGEST_QUERY = 4 * 1024
_MOST_ANSWERS = 1000
_ANSWERING_SECONDS = 60.0
_NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """What the responder serves, its Medplum login and its clocks. ``answering`` reads the settings that may change at
    run time."""

    serving: Serving
    answering: Callable[[], Answering] = field(repr=False)
    server: Medplum = field(repr=False)
    clock: Callable[[], float] = field(default=time.time, repr=False)
    monotonic: Callable[[], float] = field(default=time.monotonic, repr=False)


def read_settings(environ: Mapping[str, str]) -> Settings:
    """The responder's settings from the environment, with its own login at Medplum; ConfigError names what is missing.

    The settings for the answers are read as the bot reads them: each from the environment, else from the project's
    secrets, which a login that administers the project may read.
    """
    serving, server = read_serving(environ), connect_environment(environ).with_local_references()

    def read(secrets: Mapping[str, str]) -> Answering:
        return read_answering(resolve(ANSWERING, environ, secrets), f"{serving.base_url}/documents/{{id}}?")

    read({})  # a wrong value in the environment is an error at start
    return Settings(serving, lambda: read(secret_values(server.project_secrets().values())), server)


def is_configured(environ: Mapping[str, str]) -> bool:
    """Whether the environment enables the responder."""
    return bool(environ.get("FEDERATED_CLIENTS"))


def routes(settings: Settings) -> list[Route]:
    """The responder's routes, with their full paths."""
    return Responder(settings).routes()


class Responder:
    """The responder of one Medplum project. ``close`` writes the pending audit records."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.recorder = Recorder(settings.server, seconds=settings.serving.audit_seconds, clock=settings.clock)
        self._answering = cached(TTLCache(1, _ANSWERING_SECONDS), lock=threading.Lock())(settings.answering)
        self._tokens = Tokens(settings.serving, settings.clock, Attempts(settings.serving.attempts, settings.clock))
        self._gathered: Callable[[str], _Answer] = self._gather
        if seconds := settings.serving.cache_seconds:  # an answer that is never reused is not cached
            answers: TTLCache[Any, _Answer] = TTLCache(_MOST_ANSWERS, seconds, timer=settings.monotonic)
            self._gathered = cached(answers, condition=threading.Condition())(self._gather)

    def routes(self) -> list[Route]:
        """Every route of the responder."""
        discovery = "/.well-known/smart-configuration"
        there = [
            Route(f"{PREFIX}/oauth2/token", self.token, methods=["POST"]),
            Route(f"{PREFIX}/fhir/R4/DocumentReference", self.search, methods=["GET"]),
            Route(f"{PREFIX}/fhir/R4/DocumentReference/_search", self.search_by_form, methods=["POST"]),
            Route(f"{PREFIX}/documents/{{id}}", self.document, methods=["GET"]),
            Route(f"{PREFIX}/fhir/R4/metadata", self.metadata, methods=["GET"]),
            *(
                Route(prefix + discovery, self.discovery, methods=["GET"])
                for prefix in ("", PREFIX, f"{PREFIX}/fhir/R4")
            ),
        ]
        return [*there, *Elsewhere(there).beneath(PREFIX)]

    def close(self) -> None:
        """Write the pending audit records."""
        self.recorder.close()

    async def token(self, request: Request) -> Response:
        """The token endpoint."""
        too_large = _too_large(request)
        body = None if too_large else await _body(request)
        if body is None:
            return too_large or _json(413, {"error": "invalid_request"}, "application/json", _NO_STORE)
        authorization = request.headers.get("Authorization")
        address = self._address(request)
        answer = await run_in_threadpool(self._tokens.answer, body, authorization, address)
        if isinstance(answer, Issued):
            return _json(200, answer.body, "application/json", _NO_STORE)
        return _refused_token(answer, basic=authorization is not None)

    def search(self, request: Request) -> Response:
        """DocumentReference?patient=..."""
        return self._guarded(request, self._search, scopes.SEARCH)

    async def search_by_form(self, request: Request) -> Response:
        """The same search with its parameters in a form (https://hl7.org/fhir/R4/http.html#search)."""
        kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind not in {"", "application/x-www-form-urlencoded"}:
            issue = outcomes.Issue("invalid-input", "Send a form: application/x-www-form-urlencoded.")
            return _json(415, outcomes.outcome([issue]), FHIR_JSON, PRIVATE)
        body = None if _too_large(request) else await _body(request)
        if body is None:
            return _too_large(request) or Response(status_code=413)
        form = parse_qsl(body.decode(errors="replace"), keep_blank_values=True)
        return await run_in_threadpool(
            self._guarded, request, lambda asked, caller: self._search(asked, caller, form), scopes.SEARCH
        )

    def document(self, request: Request) -> Response:
        """One document's bytes."""
        return self._guarded(request, self._document, *scopes.FETCH)

    def metadata(self, request: Request) -> Response:
        """The capability statement, which is public."""
        serving = self.settings.serving
        statement = federation_metadata.capability_statement(serving.fhir_url, serving.token_url)
        return _too_large(request) or _json(200, statement, FHIR_JSON, {})

    def discovery(self, request: Request) -> Response:
        """SMART's discovery document, which is public."""
        document = federation_metadata.smart_configuration(self.settings.serving.token_url)
        return _too_large(request) or _json(200, document, "application/json", {})

    def _guarded(
        self, request: Request, answer: Callable[[Request, Caller], Response], *needs: tuple[str, str]
    ) -> Response:
        """The response if the token permits one of ``needs``; failures are OperationOutcomes without personal data."""
        too_large = _too_large(request)
        if too_large is not None:
            return too_large
        caller = self._tokens.caller(request.headers.get("Authorization"))
        if caller is None:
            refused = outcomes.outcome(
                [outcomes.Issue("token-required", "Send a token of this server.", issue_code="login")]
            )
            return _json(401, refused, FHIR_JSON, {"WWW-Authenticate": "Bearer", **PRIVATE})
        if not scopes.permit(caller.scopes, *needs):
            return _insufficient_scope(*needs)
        try:
            # A partner's trace ends here: it must not continue into internal work.
            with spans.call("federated", {}) as span:
                span.annotate(name="federated-documents")
                answered = answer(request, caller)
                span.annotate(status=answered.status_code)
                return answered
        except InputError as error:
            status = 406 if isinstance(error, federation.FormatNotSupported) else 400
            return _json(status, outcomes.of_error(error), FHIR_JSON, PRIVATE)
        except BotError as error:
            _log.warning("A federated request failed: %s", error.code)
            status = 503 if isinstance(error, TransientError) else 500
            headers = {"Retry-After": "5"} if status == 503 else {}
            return _json(status, outcomes.of_error(error), FHIR_JSON, {**headers, **PRIVATE})

    def _search(self, request: Request, caller: Caller, form: Sequence[tuple[str, str]] = ()) -> Response:
        base_url, fhir_url = self.settings.serving.base_url, self.settings.serving.fhir_url
        query = federation.read_query(
            [*request.query_params.multi_items(), *form],
            strict=federation.is_strict(request.headers.get("Prefer", "")),
            servers=(fhir_url, self.settings.server.client.fhir_base_url),
        )
        answers = [self._gathered(asked_id) for asked_id in self._source().asked_ids(query)]
        patients = tuple(patient for answer in answers for patient in answer.patients)
        self.recorder.queried(Access(caller.client, patients, None, federation.canonical(query), base_url))
        fitting = [document for answer in answers for document in answer.documents if query.fits(document)]
        return _json(200, federation.searchset(query, fitting, fhir_url), FHIR_JSON, PRIVATE)

    def _document(self, request: Request, caller: Caller) -> Response:
        """Looked up for each request, so that a document that may no longer be disclosed is not sent."""
        asked, number = request.query_params.get("patient", ""), request.query_params.get("content", "0")
        source = self._source()
        found = source.patient(asked) if asked else None
        document = source.document(found, request.path_params["id"]) if found else None
        if found is None or document is None or not number.isascii() or not number.isdigit() or len(number) > 4:
            return _not_found()
        opened = source.open(found, document, int(number))
        if opened is None:
            return _not_found()
        try:
            self.recorder.fetched(self._access(caller.client, found, document))
        except BotError:
            opened.close()
            raise
        version = str((document.get("meta") or {}).get("versionId", ""))
        return document_answer(request, opened, etag=f'"{version}-{number}-{opened.version}"')

    def _access(self, client: str, found: Found, document: Json) -> Access:
        return Access(
            client, found.references[:1], f"DocumentReference/{document['id']}", "", self.settings.serving.base_url
        )

    def _address(self, request: Request) -> str:
        """The client address of a login: that of the connection, or from the header if the connection is a trusted
        proxy's."""
        address = request.client.host if request.client else ""
        return federation_proxies.origin(
            address, request.headers.getlist("X-Forwarded-For"), self.settings.serving.trusted_proxies
        )

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self.settings.clock(), UTC)

    def _source(self) -> FederatedSource:
        """The documents that the network may see, by the settings as of at most a minute ago."""
        return _made(self.settings.server, self._answering(), self._now)

    def _gather(self, asked_id: str) -> _Answer:
        source = self._source()
        found = source.patient(asked_id)
        if found is None:
            return _Answer((), ())
        return _Answer(found.references[:1], tuple(source.documents(found, asked_id)))


@lru_cache(8)
def _made(server: Medplum, answering: Answering, now: Callable[[], datetime]) -> FederatedSource:
    """The same source while the settings are unchanged, because it caches the sizes of documents."""
    return FederatedSource(server, answering, now=now)


@dataclass(frozen=True)
class _Answer:
    patients: tuple[str, ...] = field(repr=False)
    documents: tuple[Json, ...] = field(repr=False)


async def _body(request: Request) -> bytes | None:
    """The body, or None if it is too large; reading stops at the limit."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LARGEST_BODY:
            return None
    return bytes(body)


def _too_large(request: Request) -> Response | None:
    if sum(len(name) + len(value) for name, value in request.scope["headers"]) > _LARGEST_HEADERS:
        return Response(status_code=431)
    return Response(status_code=414) if len(request.scope["query_string"]) > _LONGEST_QUERY else None


def _refused_token(refused: Refused, *, basic: bool) -> Response:
    headers = dict(_NO_STORE)
    if refused.status == 401 and basic:
        headers["WWW-Authenticate"] = 'Basic realm="federated"'
    if refused.status in {429, 503}:
        headers["Retry-After"] = "60" if refused.status == 429 else "1"
    return _json(refused.status, refused.body(), "application/json", headers)


def _insufficient_scope(*needs: tuple[str, str]) -> Response:
    """https://www.rfc-editor.org/rfc/rfc6750#section-3.1"""
    wanted = f"system/{needs[0][0]}.rs"
    issue = outcomes.Issue("insufficient-scope", f"The token's scopes do not permit this: request {wanted}.")
    challenge = f'Bearer error="insufficient_scope", scope="{wanted}"'
    return _json(403, outcomes.outcome([issue]), FHIR_JSON, {"WWW-Authenticate": challenge, **PRIVATE})


def _not_found() -> Response:
    missing = outcomes.Issue("not-found", "The patient has no such document.", issue_code="not-found")
    return _json(404, outcomes.outcome([missing]), FHIR_JSON, PRIVATE)


def _json(status: int, value: Json, media_type: str, headers: Mapping[str, str]) -> Response:
    return Response(encode(value), status, headers=dict(headers), media_type=media_type)
