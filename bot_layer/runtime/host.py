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
from functools import partial

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bot_layer.collection import Collection, load
from bot_layer.core.json import Json
from bot_layer.core.relay_signature import Verifier
from bot_layer.errors import AuthError, BotError, InputError
from bot_layer.handler import Handler
from bot_layer.runtime.admission import Admission
from bot_layer.runtime.invoke import Result, encode, invoke, refused
from bot_layer.runtime.listen import ThreadedServer

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


@dataclass(frozen=True)
class Dispatcher:
    """From an envelope to the result of the bot that it is for."""

    settings: HostSettings
    admission: Admission

    def by_bot_id(self, bot_id: str, envelope: Json) -> Result:
        """The result of the bot that Medplum knows under this id."""
        try:
            handler = self._handler(self.admission.identifiers(envelope, bot_id))
        except BotError as error:
            _log.warning("Refused a call: %s", error.code)
            return refused(error)
        return invoke(handler, envelope, environ=self.settings.environ)

    def by_name(self, name: str, envelope: Json) -> Result:
        """The result of the bot that a relay names; the envelope's token must not be another bot's."""
        try:
            handler = self.settings.bots.named(name)
            login = self.admission.login(envelope)
            if login.is_bot and handler.bot.identifier not in login.identifiers:
                raise AuthError("The envelope's token is that of another bot.", code="wrong-bot")
        except BotError as error:
            _log.warning("Refused a call: %s", error.code)
            return refused(error)
        return invoke(handler, envelope, environ=self.settings.environ)

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
    dispatcher = Dispatcher(settings, Admission(settings.servers, settings.remember_seconds))

    async def fission(request: Request) -> Response:
        body = await request.body()
        return await run_in_threadpool(_answer, dispatcher, request.path_params["bot_id"], body)

    async def relay(request: Request) -> Response:
        body, name = await request.body(), request.path_params["name"]
        try:
            verifier.verify(request.headers.get("X-Bot-Signature", ""), name, body, now=settings.now())
        except AuthError as error:
            return _json(401, refused(error).answer())
        return await run_in_threadpool(_relayed, dispatcher, name, body)

    async def healthz(_request: Request) -> Response:
        return _json(200, {"ok": True, "bots": len(settings.bots.handlers)})

    routes = [Route("/bot-{bot_id}", fission, methods=["POST"]), Route("/healthz", healthz)]
    if settings.relay_key:
        verifier = Verifier(settings.relay_key)
        routes.append(Route("/relay/{name}", relay, methods=["POST"]))
    return Starlette(routes=routes)


class HostServer(ThreadedServer):
    """The host on a loopback port in a thread of this process, for the sandbox, the demo and tests."""

    def __init__(self, settings: HostSettings, *, port: int = 0) -> None:
        super().__init__(app(settings), port=port)


def read_envelope(body: bytes) -> Json:
    """The envelope of a request's body; InputError where it is none."""
    if len(body) > _LARGEST_ENVELOPE:
        raise InputError("The envelope is too large.", code="envelope-too-large")
    try:
        parsed = json.loads(body)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        raise InputError("Send Medplum's bot event: a JSON object with baseUrl, accessToken and input.")
    return parsed


def _answer(dispatcher: Dispatcher, bot_id: str, body: bytes) -> Response:
    return _of_envelope(body, partial(dispatcher.by_bot_id, bot_id))


def _relayed(dispatcher: Dispatcher, name: str, body: bytes) -> Response:
    return _of_envelope(body, partial(dispatcher.by_name, name))


def _of_envelope(body: bytes, run: Callable[[Json], Result]) -> Response:
    try:
        envelope = read_envelope(body)
    except InputError as error:
        return _json(400, refused(error).answer())
    return _json(200, run(envelope).answer())


def _json(status: int, value: Json) -> Response:
    return Response(encode(value), status, media_type="application/json")
