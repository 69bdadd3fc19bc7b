"""The host that Medplum calls: ``POST /bot-<botId>`` (Fission route) and ``POST /relay/<bot-name>`` with an envelope.

An answer is 200 with ``{"returnValue", "logResult", "success"}`` whatever it says: behind a custom operation any other
status reaches the caller as a 500 without a reason. https://www.medplum.com/docs/bots
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, cast

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bot_layer import spans
from bot_layer.bot.collection import Collection, load
from bot_layer.bot.handler import Handler
from bot_layer.errors import AuthError, BotError, InputError
from bot_layer.fhir.json import Json
from bot_layer.host import listen
from bot_layer.host.admission import Admission
from bot_layer.host.invoke import Result, encode, invoke, is_own_change, queued, refused
from bot_layer.host.listening import ThreadedServer
from bot_layer.host.metrics import CONTENT_TYPE, Metrics
from bot_layer.host.rules.relay_signature import Verifier

if TYPE_CHECKING:  # DBOS costs half a second of start that a host without an inbox need not pay
    from bot_layer.host.durable import Inbox

_LARGEST_ENVELOPE = 64 * 1024 * 1024
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HostSettings:
    """What a host serves: the Medplum servers that it believes, its bots, and the environment of their settings."""

    servers: tuple[str, ...]
    bots: Collection = field(default_factory=load)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)
    remember_seconds: float = 60.0
    relay_key: str | None = field(default=None, repr=False)
    now: Callable[[], float] = time.time
    inbox: Inbox | None = field(default=None, repr=False)
    more_routes: tuple[Route, ...] = ()


@dataclass(frozen=True)
class Dispatcher:
    """From an envelope to the result of the bot that it is for."""

    settings: HostSettings
    admission: Admission
    metrics: Metrics

    def by_bot_id(self, bot_id: str, envelope: Json, *, traceparent: str | None = None) -> Result:
        """The result of the bot that Medplum knows under this id."""
        with spans.call("fission", envelope, traceparent) as span:
            return self._answer(span, envelope, lambda: self._handler(self.admission.identifiers(envelope, bot_id)))

    def by_name(self, name: str, envelope: Json, *, traceparent: str | None = None) -> Result:
        """The result of the bot that a relay names; the Bot that runs the relay must be that bot."""
        with spans.call("relay", envelope, traceparent) as span:
            return self._answer(span, envelope, lambda: self._relayed(name, envelope))

    def _answer(self, span: spans.Span, envelope: Json, find: Callable[[], Handler]) -> Result:
        """The result of the bot that is found, or the reason why there is none; the span is told of it."""
        try:
            handler = find()
        except BotError as error:
            result = self._refused(error)
        else:
            span.tell(name=handler.bot.name)
            result = self._run(handler, envelope)
        span.tell(**result.facts())
        return result

    def _relayed(self, name: str, envelope: Json) -> Handler:
        handler = self.settings.bots.named(name)
        bot_id = str((envelope.get("bot") or {}).get("reference", "")).partition("/")[2]
        if handler.bot.identifier not in self.admission.identifiers(envelope, bot_id):
            raise AuthError("The relay runs as another bot than it names.", code="wrong-bot")
        return handler

    def _run(self, handler: Handler, envelope: Json) -> Result:
        """Events go to the inbox where there is one; what somebody waits for runs now."""
        inbox, settings = self.settings.inbox, self.settings
        with self.metrics.timed(handler.bot.name) as done:
            if inbox is not None and not is_own_change(envelope):
                event_id = inbox.take(handler, envelope, now=datetime.fromtimestamp(settings.now(), UTC))
                if event_id is not None:
                    result = queued(event_id)
                    done(result)
                    return result
            result = invoke(handler, envelope, environ=settings.environ)
            done(result)
            return result

    def _refused(self, error: BotError) -> Result:
        _log.warning("Refused a call: %s", error.code)
        result = refused(error)
        self.metrics.count("-", result)
        return result

    def _handler(self, identifiers: tuple[str, ...]) -> Handler:
        for identifier in identifiers:
            found = self.settings.bots.identified(identifier)
            if found is not None:
                return found
        raise InputError(
            "This host has no bot with the identifier of that Bot; deploy with deploy_bots.py.", code="unknown-bot"
        )


def app(settings: HostSettings) -> Starlette:
    """The host as an ASGI application."""
    metrics = Metrics()
    dispatcher = Dispatcher(settings, Admission(settings.servers, settings.remember_seconds), metrics)

    async def fission(request: Request) -> Response:
        body = await _body(request)
        return await run_in_threadpool(_answer, dispatcher, request.path_params["bot_id"], body, _traceparent(request))

    async def relay(request: Request) -> Response:
        body, name = await _body(request), request.path_params["name"]
        try:
            verifier.verify(request.headers.get("X-Bot-Signature", ""), name, body, now=settings.now())
        except AuthError as error:
            return _json(401, refused(error).answer())
        return await run_in_threadpool(_relayed, dispatcher, name, body, _traceparent(request))

    async def healthz(_request: Request) -> Response:
        return _json(200, {"ok": True, "bots": len(settings.bots.handlers)})

    async def readyz(_request: Request) -> Response:
        ready = settings.inbox is None or settings.inbox.ready
        return _json(200 if ready else 503, {"ok": ready})

    async def figures(_request: Request) -> Response:
        counts = await run_in_threadpool(settings.inbox.counts) if settings.inbox and settings.inbox.ready else {}
        return Response(metrics.page(counts), media_type=CONTENT_TYPE)

    routes = [
        Route("/bot-{bot_id}", fission, methods=["POST"]),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", figures),
    ]
    if settings.relay_key:
        verifier = Verifier(settings.relay_key)
        routes.append(Route("/relay/{name}", relay, methods=["POST"]))
    return Starlette(routes=[*routes, *settings.more_routes], exception_handlers={InputError: _unread})


class HostServer(ThreadedServer):
    """The host on a loopback port in a thread of this process, for the sandbox, the demo and tests."""

    def __init__(self, settings: HostSettings, *, port: int = 0) -> None:
        super().__init__(listen.config(app(settings), grace=5), port=port)


def read_envelope(body: bytes) -> Json:
    """The envelope of a request's body; InputError where it is none."""
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise InputError("Send Medplum's bot event: a JSON object with baseUrl, accessToken and input.")
    return parsed


async def _body(request: Request) -> bytes:
    """The body; InputError for one that is too large, of which no more is read."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LARGEST_ENVELOPE:
            raise InputError("The envelope is too large.", code="envelope-too-large")
    return bytes(body)


async def _unread(_request: Request, error: Exception) -> Response:
    return _json(400, refused(cast(InputError, error)).answer())


def _traceparent(request: Request) -> str | None:
    return request.headers.get("traceparent")


def _answer(dispatcher: Dispatcher, bot_id: str, body: bytes, traceparent: str | None) -> Response:
    return _of_envelope(body, partial(dispatcher.by_bot_id, bot_id, traceparent=traceparent))


def _relayed(dispatcher: Dispatcher, name: str, body: bytes, traceparent: str | None) -> Response:
    return _of_envelope(body, partial(dispatcher.by_name, name, traceparent=traceparent))


def _of_envelope(body: bytes, run: Callable[[Json], Result]) -> Response:
    try:
        envelope = read_envelope(body)
    except InputError as error:
        return _json(400, refused(error).answer())
    return _json(200, run(envelope).answer())


def _json(status: int, value: Json) -> Response:
    return Response(encode(value), status, media_type="application/json")
