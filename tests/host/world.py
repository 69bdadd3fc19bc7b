"""A server that knows tokens and Bots, and bots that do what a test of the host needs."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import jwt
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bot_layer.bot.collection import Collection
from bot_layer.bot.declaration import BOT_IDENTIFIER_SYSTEM, Bot, Setting, Watch
from bot_layer.bot.event import Event
from bot_layer.bot.handler import Handler
from bot_layer.errors import ReviewNeeded, TransientError
from bot_layer.fhir import parameters
from bot_layer.fhir.json import Json
from bot_layer.host.host import HostServer, HostSettings
from medplum_sandbox.medplum.token_keys import TokenKeys
from medplum_sandbox.server import Server
from tests import loopback


class TokenServer:
    """The part of Medplum that the host calls: keys, Bots, Subscriptions and their resources, and ``auth/me``."""

    def __init__(self, project: str = "project-1") -> None:
        self.keys = TokenKeys()
        self.project = project
        self.tokens: dict[str, str] = {}
        self.profiles: dict[str, Json] = {}
        # What any good token may read, by reference; a token can always see its own profile.
        self.resources: dict[str, Json] = {}
        self.asked: list[str] = []
        routes = [
            Route("/.well-known/jwks.json", self._jwks),
            Route("/auth/me", self._me),
            Route("/fhir/R4/{type}/{id}", self._read),
        ]
        self.server = Server(Starlette(routes=routes))
        self.status = 200

    def login(self, name: str, profile: Json, *, readable: bool = True, **claims: Any) -> str:
        """A token that acts as the profile, known in envelopes by a name; a Bot may be read, if it is ``readable``."""
        reference = f"{profile['resourceType']}/{profile['id']}"
        self.tokens[name] = self.token(reference, **claims)
        self.profiles[reference] = profile
        if readable and profile["resourceType"] == "Bot":
            self.add(profile)
        return self.tokens[name]

    def token(self, profile: str, **claims: Any) -> str:
        """A token with the claims of a real 5.1.13; ``claims`` changes some of them, None removes one."""
        address, now = f"{self.server.base_url}/", int(time.time())
        usual = {"iss": address, "aud": address, "profile": profile, "login_id": "l", "scope": "openid"}
        whole = usual | {"jti": "j", "iat": now, "nbf": now, "exp": now + 3600} | claims
        return self.keys.sign({name: value for name, value in whole.items() if value is not None})

    def add(self, resource: Json) -> None:
        """From now on the resource may be read."""
        self.resources[f"{resource['resourceType']}/{resource['id']}"] = resource

    def subscribe(self, bot: str, *, criteria: str = "Practitioner", id: str = "s") -> None:
        """A Subscription that runs the Bot (``Bot/id``)."""
        channel = {"type": "rest-hook", "endpoint": bot}
        self.add({"resourceType": "Subscription", "id": id, "criteria": criteria, "channel": channel})

    def _profile(self, request: Request) -> str | None:
        try:
            claims = self.keys.claims(request.headers.get("Authorization", "").removeprefix("Bearer "))
        except jwt.InvalidTokenError:
            return None
        return str(claims["profile"])

    async def _jwks(self, _request: Request) -> Response:
        self.asked.append("jwks")
        return JSONResponse(self.keys.key_set() if self.status == 200 else {}, self.status)

    async def _me(self, request: Request) -> Response:
        self.asked.append("auth/me")
        profile = self._profile(request)
        if profile is None:
            return JSONResponse(_outcome("login"), 401)
        return JSONResponse({"profile": self.profiles[profile], "project": {"id": self.project}})

    async def _read(self, request: Request) -> Response:
        kind = request.path_params["type"]
        self.asked.append(f"{kind}/{{id}}")
        if self._profile(request) is None:
            return JSONResponse(_outcome("login"), 401)
        found = self.resources.get(f"{kind}/{request.path_params['id']}")
        if found is None:
            return JSONResponse(_outcome("not-found"), 404)
        return JSONResponse(found | {"meta": {"project": self.project} | found.get("meta", {})})


def bot_resource(bot_id: str, identifier: str) -> Json:
    """A Bot as Medplum stores it."""
    return {
        "resourceType": "Bot",
        "id": bot_id,
        "identifier": [{"system": BOT_IDENTIFIER_SYSTEM, "value": identifier}],
    }


def envelope(medplum: TokenServer, token: str, given: Any, **more: Any) -> Json:
    """An event as Medplum's Fission route posts it for a call, with the token of that name."""
    actual = medplum.tokens.get(token, token)
    profile = str(jwt.decode(actual, options={"verify_signature": False})["profile"]) if actual.count(".") == 2 else ""
    return {
        **({"bot": {"reference": profile}} if profile.startswith("Bot/") else {}),
        "baseUrl": f"{medplum.server.base_url}/",
        "accessToken": actual,
        "requester": {"reference": "Practitioner/caller"},
        "input": given,
        "contentType": "application/fhir+json",
        "secrets": {},
        "traceId": "trace-1",
        "headers": {"content-type": "application/fhir+json"},
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


ECHO = Handler(
    Bot("echo", "test/echo", "says it back", settings=(Setting("KEY", "any"),), watches=(Watch("Practitioner"),)), _echo
)
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
