"""The host that Medplum's Fission route calls: ``POST /bot-<botId>`` with an envelope, answered by a Python bot.

The answer is always 200 with ``{"returnValue", "logResult", "success"}``: behind a custom operation any other status
reaches the caller as a 500 without a reason. https://www.medplum.com/docs/bots
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bot_layer.collection import Collection, load
from bot_layer.core.json import Json
from bot_layer.errors import BotError, InputError
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

    async def healthz(_request: Request) -> Response:
        return _json(200, {"ok": True, "bots": len(settings.bots.handlers)})

    return Starlette(
        routes=[
            Route("/bot-{bot_id}", fission, methods=["POST"]),
            Route("/healthz", healthz),
        ]
    )


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
    try:
        envelope = read_envelope(body)
    except InputError as error:
        return _json(400, refused(error).answer())
    return _json(200, dispatcher.by_bot_id(bot_id, envelope).answer())


def _json(status: int, value: Json) -> Response:
    return Response(encode(value), status, media_type="application/json")
