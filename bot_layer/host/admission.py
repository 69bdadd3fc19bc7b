"""Who may run a bot: the envelope's token must act on a Medplum server that this host knows, before anything else.

Medplum's Fission route carries no authentication of its own. Reading the Bot with the envelope's own token says both
that the token is good and which bot it is, so that nothing is configured by raw id. ``auth/me`` would say so too, but
a server answers it 160 times a minute for one address (``defaultAuthRateLimit``), so it is asked only where the token
may not read the Bot. https://www.medplum.com/docs/api/auth
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import jwt

from bot_layer.bot.declaration import BOT_IDENTIFIER_SYSTEM
from bot_layer.bot.event import Event
from bot_layer.errors import AuthError, InputError
from bot_layer.fhir.json import Json
from bot_layer.http.transport import require_safe_url
from bot_layer.medplum.client import connect

_KEPT = 2048


def trimmed(url: str) -> str:
    """A server's address without the slash at its end."""
    return url.strip().rstrip("/")


@dataclass
class Admission:
    """The check of an envelope's token. Answers are kept for ``seconds``; ``clock`` counts them."""

    servers: Sequence[str]
    seconds: float = 60.0
    clock: Callable[[], float] = time.monotonic
    _known: OrderedDict[tuple[bytes, str], tuple[float, tuple[str, ...]]] = field(
        default_factory=OrderedDict, repr=False
    )
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        self.servers = tuple(trimmed(server) for server in self.servers)
        for server in self.servers:
            require_safe_url(server, "Medplum")

    def identifiers(self, envelope: Json, bot_id: str) -> tuple[str, ...]:
        """The identifiers of the Bot that Medplum wants to run, read with the envelope's own token.

        A Bot without membership runs as its caller: then the caller must be able to read the Bot.
        """
        event = _event(envelope)
        if trimmed(event.base_url) not in self.servers:
            raise AuthError(
                "This host does not serve the Medplum server of the envelope's baseUrl; add it with --medplum.",
                code="unknown-server",
            )
        if not event.access_token:
            raise AuthError("The envelope carries no accessToken.", code="no-token")
        key = (_digest(event), bot_id)
        known = self._kept(key)
        if known is None:
            known = _ask(event, bot_id)
            self._keep(key, known)
        return known

    def _kept(self, key: tuple[bytes, str]) -> tuple[str, ...] | None:
        with self._lock:
            found = self._known.get(key)
            return found[1] if found is not None and self.clock() - found[0] < self.seconds else None

    def _keep(self, key: tuple[bytes, str], value: tuple[str, ...]) -> None:
        with self._lock:
            self._known[key] = (self.clock(), value)
            self._known.move_to_end(key)
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)


def _event(envelope: Json) -> Event:
    base_url, token = envelope.get("baseUrl"), envelope.get("accessToken")
    if not isinstance(base_url, str) or not base_url:
        raise InputError("Send Medplum's bot event: a JSON object with baseUrl, accessToken and input.")
    return Event(base_url=base_url, access_token=token if isinstance(token, str) else "", input=None)


def _digest(event: Event) -> bytes:
    """Stands for a token at a server, so that no token is kept."""
    return hashlib.sha256(f"{trimmed(event.base_url)} {event.access_token}".encode()).digest()


def _ask(event: Event, bot_id: str) -> tuple[str, ...]:
    server = connect(event)
    try:
        found = _values(server.read(f"Bot/{bot_id}"))
    except (InputError, AuthError) as error:
        if error.code == "medplum-login-refused":
            raise
        me = server.get("auth/me").get("profile") or {}
        if f"{me.get('resourceType')}/{me.get('id')}" != f"Bot/{bot_id}":
            raise
        return _values(me)
    # Medplum has just accepted the token, so what it says of itself is true.
    profile = _claimed_profile(event.access_token)
    if profile.startswith("Bot/") and profile != f"Bot/{bot_id}":
        raise AuthError("The envelope's token is that of another bot.", code="wrong-bot")
    return found


def _claimed_profile(token: str) -> str:
    """The profile that a JWT names, or nothing where the token is none."""
    try:
        return str(jwt.decode(token, options={"verify_signature": False}).get("profile", ""))
    except jwt.InvalidTokenError:
        return ""


def _values(bot: Json) -> tuple[str, ...]:
    """The values under Medplum's system of bot identifiers."""
    return tuple(
        identifier["value"]
        for identifier in bot.get("identifier", [])
        if identifier.get("system") == BOT_IDENTIFIER_SYSTEM and identifier.get("value")
    )
