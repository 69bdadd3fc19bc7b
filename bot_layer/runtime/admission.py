"""Who may run a bot: the envelope's token must act on a Medplum server that this host knows, before anything else.

Medplum's Fission route carries no authentication of its own. ``GET auth/me`` with the envelope's token says both that
the token is good and which Bot it acts as, so that nothing is configured by raw id.
https://www.medplum.com/docs/api/auth
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from bot_layer.clients.medplum import connect
from bot_layer.clients.transport import require_safe_url
from bot_layer.core.declaration import BOT_IDENTIFIER_SYSTEM
from bot_layer.core.event import Event
from bot_layer.core.json import Json
from bot_layer.errors import AuthError, InputError

_KEPT = 2048
_K = TypeVar("_K")
_V = TypeVar("_V")


def trimmed(url: str) -> str:
    """A server's address without the slash at its end."""
    return url.strip().rstrip("/")


@dataclass(frozen=True)
class Login:
    """What a token acts as: a profile, and the identifiers of the Bot if it is one."""

    profile: str
    identifiers: tuple[str, ...] = ()

    @property
    def is_bot(self) -> bool:
        """True where the token is a bot's own."""
        return self.profile.startswith("Bot/")


@dataclass
class Admission:
    """The check of an envelope's token. Answers are kept for ``seconds``; ``clock`` counts them."""

    servers: Sequence[str]
    seconds: float = 60.0
    clock: Callable[[], float] = time.monotonic
    _logins: OrderedDict[bytes, tuple[float, Login]] = field(default_factory=OrderedDict, repr=False)
    _bots: OrderedDict[tuple[bytes, str], tuple[float, tuple[str, ...]]] = field(
        default_factory=OrderedDict, repr=False
    )
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        self.servers = tuple(trimmed(server) for server in self.servers)
        for server in self.servers:
            require_safe_url(server, "Medplum")

    def login(self, envelope: Json) -> Login:
        """What the envelope's token acts as; AuthError where the server is unknown or refuses the token."""
        event = _event(envelope)
        if trimmed(event.base_url) not in self.servers:
            raise AuthError(
                "This host does not serve the Medplum server of the envelope's baseUrl; add it with --medplum.",
                code="unknown-server",
            )
        if not event.access_token:
            raise AuthError("The envelope carries no accessToken.", code="no-token")
        key = _digest(event)
        known = self._kept(self._logins, key)
        if known is None:
            known = _ask(event)
            self._keep(self._logins, key, known)
        return known

    def identifiers(self, envelope: Json, bot_id: str) -> tuple[str, ...]:
        """The identifiers of the Bot that Medplum wants to run, read with the envelope's own token.

        A Bot without membership runs as its caller: then the caller must be able to read the Bot.
        """
        login = self.login(envelope)
        if login.profile == f"Bot/{bot_id}":
            return login.identifiers
        if login.is_bot:
            raise AuthError("The envelope's token is that of another bot.", code="wrong-bot")
        event = _event(envelope)
        key = (_digest(event), bot_id)
        known = self._kept(self._bots, key)
        if known is None:
            known = _values(connect(event).read(f"Bot/{bot_id}"))
            self._keep(self._bots, key, known)
        return known

    def _kept(self, store: OrderedDict[_K, tuple[float, _V]], key: _K) -> _V | None:
        with self._lock:
            found = store.get(key)
            return found[1] if found is not None and self.clock() - found[0] < self.seconds else None

    def _keep(self, store: OrderedDict[_K, tuple[float, _V]], key: _K, value: _V) -> None:
        with self._lock:
            store[key] = (self.clock(), value)
            store.move_to_end(key)
            while len(store) > _KEPT:
                store.popitem(last=False)


def _event(envelope: Json) -> Event:
    base_url, token = envelope.get("baseUrl"), envelope.get("accessToken")
    if not isinstance(base_url, str) or not base_url:
        raise InputError("Send Medplum's bot event: a JSON object with baseUrl, accessToken and input.")
    return Event(base_url=base_url, access_token=token if isinstance(token, str) else "", input=None)


def _digest(event: Event) -> bytes:
    """Stands for a token at a server, so that no token is kept."""
    return hashlib.sha256(f"{trimmed(event.base_url)} {event.access_token}".encode()).digest()


def _ask(event: Event) -> Login:
    me = connect(event).get("auth/me")
    profile = me.get("profile") or {}
    return Login(f"{profile.get('resourceType')}/{profile.get('id')}", _values(profile))


def _values(bot: Json) -> tuple[str, ...]:
    """The values under Medplum's system of bot identifiers."""
    return tuple(
        identifier["value"]
        for identifier in bot.get("identifier", [])
        if identifier.get("system") == BOT_IDENTIFIER_SYSTEM and identifier.get("value")
    )
