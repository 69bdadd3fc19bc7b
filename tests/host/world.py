"""A server that knows tokens and Bots, and bots that do what a test of the host needs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bot_layer.bot.collection import Collection
from bot_layer.bot.declaration import BOT_IDENTIFIER_SYSTEM, Bot, Setting
from bot_layer.bot.event import Event
from bot_layer.bot.handler import Handler
from bot_layer.errors import ReviewNeeded, TransientError
from bot_layer.fhir import parameters
from bot_layer.fhir.json import Json
from bot_layer.host.host import HostServer, HostSettings
from medplum_sandbox.server import Server
from tests import loopback


class TokenServer:
    """As much of Medplum as admission asks: ``auth/me`` and Bots, for tokens that a test hands out."""

    def __init__(self) -> None:
        self.logins: dict[str, Json] = {}
        # Bots that may be read with any good token; a token can always see its own profile.
        self.bots: dict[str, Json] = {}
        self.asked: list[str] = []
        routes = [Route("/auth/me", self._me), Route("/fhir/R4/Bot/{id}", self._bot)]
        self.server = Server(Starlette(routes=routes))

    def login(self, token: str, profile: Json, *, readable: bool = True) -> None:
        """From now on the token acts as the profile, and may read it if it is a Bot."""
        self.logins[token] = profile
        if readable and profile["resourceType"] == "Bot":
            self.bots[profile["id"]] = profile

    async def _me(self, request: Request) -> Response:
        self.asked.append("auth/me")
        profile = self.logins.get(request.headers.get("Authorization", "").removeprefix("Bearer "))
        return JSONResponse({"profile": profile}) if profile else JSONResponse(_outcome("login"), 401)

    async def _bot(self, request: Request) -> Response:
        self.asked.append("Bot/{id}")
        profile = self.logins.get(request.headers.get("Authorization", "").removeprefix("Bearer "))
        if profile is None:
            return JSONResponse(_outcome("login"), 401)
        found = self.bots.get(request.path_params["id"])
        return JSONResponse(found) if found else JSONResponse(_outcome("not-found"), 404)


def bot_resource(bot_id: str, identifier: str) -> Json:
    """A Bot as Medplum stores it."""
    return {
        "resourceType": "Bot",
        "id": bot_id,
        "identifier": [{"system": BOT_IDENTIFIER_SYSTEM, "value": identifier}],
    }


def envelope(base_url: str, token: str, given: Any, **more: Any) -> Json:
    """An event as Medplum's Fission route posts it."""
    return {
        "bot": {"reference": "Bot/b-1"},
        "baseUrl": f"{base_url}/",
        "accessToken": token,
        "input": given,
        "contentType": "application/fhir+json",
        "secrets": {},
        "traceId": "trace-1",
    } | more


def _echo(event: Event) -> Json:
    logging.getLogger("bots.echo").info("one line of %s", "log")
    return parameters.build(
        parameters.string("heard", event.text("say")), parameters.string("key", event.secrets.get("KEY"))
    )


def _refuse(_event: Event) -> Json:
    raise ReviewNeeded("Two records contradict each other.", code="contradiction")


def _busy(_event: Event) -> Json:
    raise TransientError("Try again later.", service="Partner", status=503, retry_after=3.0)


def _break(event: Event) -> Json:
    raise KeyError(f"secret of {event.text('say')}")


ECHO = Handler(Bot("echo", "test/echo", "says it back", settings=(Setting("KEY", "any"),)), _echo)
REFUSE = Handler(Bot("refuse", "test/refuse", "refuses"), _refuse)
BUSY = Handler(Bot("busy", "test/busy", "is busy"), _busy)
BREAK = Handler(Bot("break", "test/break", "fails"), _break)
BOTS = Collection({each.bot.name: each for each in (BREAK, BUSY, ECHO, REFUSE)})


@contextmanager
def hosted(medplum: TokenServer, **settings: Any) -> Iterator[tuple[httpx.Client, HostServer]]:
    """A running host for the test bots that believes the token server, and a client for it."""
    chosen: dict[str, Any] = {"servers": (medplum.server.base_url,), "bots": BOTS, "environ": {}} | settings
    with HostServer(HostSettings(**chosen)) as server, loopback.client(base_url=server.base_url) as client:
        yield client, server


def _outcome(code: str) -> Json:
    return {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": code}]}
