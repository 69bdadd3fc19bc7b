"""Who may run a bot: only Medplum, as the signature of the bot's own token proves.

Medplum's Fission route has no authentication of its own. The token in the event is a JWT that the server signed for the
Bot that it runs (``profile``). The host can therefore verify without a request that the event comes from a server that
it serves. The Bot is read once, for its identifier and its project. Several events may carry the same token, so its
``jti`` is not a nonce. Read on Medplum 5.1.13; https://www.medplum.com/docs/auth
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import jwt
from cachetools import TTLCache, cached

from bot_layer.bot.declaration import BOT_IDENTIFIER_SYSTEM
from bot_layer.bot.event import Event
from bot_layer.errors import AuthError, InputError
from bot_layer.fhir.json import Json
from bot_layer.fhir.references import is_id
from bot_layer.host.rules.callers import Admitted
from bot_layer.host.token_keys import KEEP_SECONDS, TokenKeys
from bot_layer.http.transport import require_safe_url
from bot_layer.medplum.client import connect

# Medplum signs with ES256. An older installation may still have an RS256 key.
_ALGORITHMS: Final = ["ES256", "RS256"]
_LEEWAY_SECONDS: Final = 30
_KNOWN_BOTS: Final = 2048
_LONGEST_TOKEN: Final = 16_384
_USER_SECONDS: Final = 60.0
_QUICK: Final = {"BOT_RETRIES": "1", "BOT_BACKOFF_SECONDS": "0.2", "BOT_TIMEOUT_SECONDS": "5"}


def trimmed(url: str) -> str:
    """A server's address without the trailing slash."""
    return url.strip().rstrip("/")


@dataclass
class Admission:
    """The check of an event's token.

    ``projects`` maps a server to the only project whose Bots may run here; a server without an entry is not pinned.
    ``as_user`` also admits Bots that run as their caller (``Bot.runAsUser``), whose token is the caller's. ``agents``
    are the ClientApplications of Medplum Agents: a Bot that an Agent calls always has the token of the Agent's login.
    """

    servers: Sequence[str]
    projects: Mapping[str, Callable[[], str]] = field(default_factory=dict)
    as_user: bool = False
    agents: Sequence[str] = ()
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self.servers = tuple(trimmed(server) for server in self.servers)
        for server in self.servers:
            require_safe_url(server, "Medplum")
        self._keys = {server: TokenKeys(server, self.clock) for server in self.servers}
        self._bot = cached(  # the first events in a burst read the Bot once
            TTLCache(_KNOWN_BOTS, KEEP_SECONDS, timer=self.clock),
            key=lambda server, _token, bot_id: (server, bot_id),
            condition=threading.Condition(),
        )(_read_bot)
        self._user = cached(
            TTLCache(_KNOWN_BOTS, _USER_SECONDS, timer=self.clock),
            key=lambda server, token, bot_id: (server, bot_id, hashlib.sha256(token.encode()).digest()),
            condition=threading.Condition(),
        )(_read)

    def admit(self, envelope: Json, bot_id: str | None = None) -> Admitted:
        """The identity that the event runs as; AuthError if its token was not issued for this Bot by a listed server.

        ``bot_id`` comes from the route. A relay's route has none, so there the token names the Bot.
        """
        server, token = self._server(envelope), _token(envelope)
        profile = self._profile(server, token)
        is_bot = profile.startswith("Bot/")
        named = _named(envelope)
        wanted = bot_id or (profile.removeprefix("Bot/") if is_bot else named or "")
        if named not in {None, wanted} or (is_bot and profile != f"Bot/{wanted}") or not is_id(wanted):
            raise AuthError("The event names one Bot, and its token or the route another.", code="wrong-bot")
        admitted = self._bot(server, token, wanted) if is_bot else self._as_caller(server, token, wanted, profile)
        pinned = self.projects.get(server)
        if pinned is not None and admitted.project != pinned():
            raise AuthError("This host serves the Bots of another project of that server.", code="foreign-project")
        return admitted

    def _as_caller(self, server: str, token: str, bot_id: str, profile: str) -> Admitted:
        """A Bot with its caller's token: the caller must be able to read it, and be an Agent unless it runs as user."""
        is_agent = profile in self.agents
        if not is_agent and not self.as_user:
            raise AuthError(
                "The event's token is its caller's, not the Bot's own: it has runAsUser or no ProjectMembership, "
                "or a Medplum Agent called it. Start the host with --agent ClientApplication/ID or "
                "--allow-run-as-user, or deploy the Bot with deploy_bots.py.",
                code="runs-as-user",
            )
        found, runs_as_user = self._user(server, token, bot_id)
        if not is_agent and not runs_as_user:
            raise AuthError("The event's token is not the Bot's own.", code="wrong-bot")
        return found

    def _server(self, envelope: Json) -> str:
        base_url = envelope.get("baseUrl")
        if not isinstance(base_url, str) or not base_url:
            raise InputError("Send Medplum's bot event: a JSON object with baseUrl, accessToken and input.")
        if trimmed(base_url) not in self._keys:
            raise AuthError(
                "This host does not serve the Medplum server of the event's baseUrl; add it with --medplum.",
                code="unknown-server",
            )
        return trimmed(base_url)

    def _profile(self, server: str, token: str) -> str:
        """The profile that the token was issued for, after checking its signature, issuer and times."""
        try:
            kid = _kid(token.partition(".")[0])
            key = self._keys[server].key(kid) if kid else None
            if key is None:
                raise jwt.InvalidKeyError("The server has no such key.")
            options: Any = {"require": ["exp", "iss"], "verify_aud": False}
            claims = jwt.decode(token, key, algorithms=_ALGORITHMS, options=options, leeway=_LEEWAY_SECONDS)
        except jwt.PyJWTError as fault:
            raise AuthError(
                "The event's token is not one that this Medplum server signed, or it has expired.",
                code="medplum-login-refused",
            ) from fault
        if trimmed(str(claims["iss"])) != server:
            raise AuthError("The event's token was issued by another server.", code="medplum-login-refused")
        return str(claims.get("profile") or "")


def _token(envelope: Json) -> str:
    token = envelope.get("accessToken")
    if not isinstance(token, str) or not token:
        raise AuthError("The event carries no accessToken.", code="no-token")
    if not token.isascii() or len(token) > _LONGEST_TOKEN:
        raise AuthError("The event's accessToken is no token of Medplum.", code="medplum-login-refused")
    return token


@lru_cache(256)
def _kid(segment: str) -> str:
    """The key id in a token's first segment, or an empty string. All tokens that a key signs have the same segment."""
    try:
        header = json.loads(base64.urlsafe_b64decode(segment + "=="))
    except (ValueError, RecursionError):
        return ""
    kid = header.get("kid") if isinstance(header, dict) else None
    return kid if isinstance(kid, str) else ""


def _named(envelope: Json) -> str | None:
    """The id of the Bot that the event names; empty if it names something else, None if it names nothing."""
    bot = envelope.get("bot")
    if bot is None:
        return None
    reference = bot.get("reference") if isinstance(bot, dict) else None
    return reference[4:] if isinstance(reference, str) and reference.startswith("Bot/") else ""


def _read(server: str, token: str, bot_id: str) -> tuple[Admitted, bool]:
    """The Bot as read with its token, and whether it runs as its caller."""
    medplum = connect(Event(base_url=server, access_token=token, input=None, secrets=_QUICK))
    try:
        bot = medplum.read(f"Bot/{bot_id}")
        project = bot.get("meta", {}).get("project")
    except (InputError, AuthError) as error:
        if error.code == "medplum-login-refused":
            raise
        # An AccessPolicy may hide the Bot from itself. auth/me shows it, but is limited to 160 calls a minute.
        me = medplum.get("auth/me")
        bot, project = me.get("profile") or {}, (me.get("project") or {}).get("id")
        if f"{bot.get('resourceType')}/{bot.get('id')}" != f"Bot/{bot_id}":
            raise
    if not project:
        project = (medplum.get("auth/me").get("project") or {}).get("id")
    return Admitted(server, str(project or ""), bot_id, _values(bot)), bot.get("runAsUser") is True


def _read_bot(server: str, token: str, bot_id: str) -> Admitted:
    """A Bot, read with its own token."""
    return _read(server, token, bot_id)[0]


def _values(bot: Json) -> tuple[str, ...]:
    """The identifier values in Medplum's bot identifier system."""
    return tuple(
        identifier["value"]
        for identifier in bot.get("identifier", [])
        if identifier.get("system") == BOT_IDENTIFIER_SYSTEM and identifier.get("value")
    )
