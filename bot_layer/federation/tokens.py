"""Tokens of the federated responder: issued for a known client, signed, short-lived; wrong logins are counted.

https://www.rfc-editor.org/rfc/rfc9068 (the claims), https://www.rfc-editor.org/rfc/rfc8725 (one algorithm, all checked)
"""

from __future__ import annotations

import threading
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import jwt

from bot_layer.federation.rules.settings import Serving
from bot_layer.federation.rules.token import Client, Refused, granted, is_secret, read_request
from bot_layer.fhir.json import Json

_ALGORITHM = "HS256"
_WINDOW = 60.0
_MOST_COUNTED = 10_000
# A check costs 16 MB and some tens of milliseconds: a flood of logins must not take the host's memory.
_AT_ONCE = 2
# More than these wait for nobody: queries with a good token must not stand behind a flood of logins.
_MOST_WAITING = 8
_CLAIMS = ["iss", "aud", "sub", "exp", "iat", "jti"]


@dataclass
class Attempts:
    """Wrong logins of the last minute, by address and client."""

    most: int
    clock: Callable[[], float] = field(repr=False)
    _wrong: dict[str, deque[float]] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def wait(self, key: str) -> int | None:
        """How many seconds to wait before the next login may be tried; None where it may be now."""
        with self._lock:
            recent = self._recent(key)
            return max(1, round(recent[0] + _WINDOW - self.clock())) if len(recent) >= self.most else None

    def failed(self, key: str) -> None:
        """Counts a wrong login."""
        with self._lock:
            if len(self._wrong) >= _MOST_COUNTED:
                self._wrong = {each: times for each in list(self._wrong) if (times := self._recent(each))}
            self._wrong.setdefault(key, deque(maxlen=self.most)).append(self.clock())

    @property
    def counted(self) -> int:
        """How many addresses and clients are remembered."""
        return len(self._wrong)

    def _recent(self, key: str) -> deque[float]:
        times = self._wrong.get(key, deque())
        while times and times[0] <= self.clock() - _WINDOW:
            times.popleft()
        return times


@dataclass(frozen=True)
class Issued:
    """The answer to a good request."""

    body: Json = field(repr=False)


@dataclass(frozen=True)
class Tokens:
    """The token endpoint without its wire."""

    serving: Serving
    clock: Callable[[], float]
    attempts: Attempts
    waiting: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(_MOST_WAITING), repr=False)
    _checking: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(_AT_ONCE), repr=False)

    def answer(self, body: bytes, authorization: str | None, address: str) -> Issued | Refused:
        """A token, or the refusal; a client with too many wrong logins waits."""
        asked = read_request(body, authorization, audiences=self.serving.audiences)
        if isinstance(asked, Refused):
            return asked
        key = f"{address} {asked.client_id}"
        wait = self.attempts.wait(key)
        if wait is not None:
            return Refused(429, "temporarily_unavailable", f"Too many wrong logins; wait {wait} seconds.")
        client = self.serving.client(asked.client_id)
        if not self.waiting.acquire(blocking=False):
            return Refused(503, "temporarily_unavailable", "Too many logins at once; try again in a moment.")
        try:
            with self._checking:
                is_right = is_secret(client, asked.client_secret)
        finally:
            self.waiting.release()
        if client is None or not is_right:
            self.attempts.failed(key)
            return Refused(401, "invalid_client", "The client or its secret is wrong.")
        scopes = granted(client, asked)
        return scopes if isinstance(scopes, Refused) else self._issued(client, " ".join(scopes))

    def client_of(self, authorization: str | None) -> str | None:
        """The client whose token this is; None where it is not ours, not good any more, or of a client that went."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            return None
        try:
            # The clock is an argument here, so the library must not look at its own.
            claims = jwt.decode(
                token.strip(),
                self.serving.signing_key,
                algorithms=[_ALGORITHM],
                audience=self.serving.fhir_url,
                issuer=self.serving.base_url,
                options={"require": _CLAIMS, "verify_exp": False, "verify_iat": False},
            )
        except jwt.InvalidTokenError:
            return None
        if claims["exp"] <= self.clock() or self.serving.client(claims["sub"]) is None:
            return None
        return str(claims["sub"])

    def _issued(self, client: Client, scope: str) -> Issued:
        now = int(self.clock())
        claims = {
            "iss": self.serving.base_url,
            "aud": self.serving.fhir_url,
            "sub": client.id,
            "client_id": client.id,
            "scope": scope,
            "iat": now,
            "exp": now + self.serving.token_seconds,
            "jti": uuid.uuid4().hex,
        }
        token = jwt.encode(claims, self.serving.signing_key, algorithm=_ALGORITHM, headers={"typ": "at+jwt"})
        seconds = self.serving.token_seconds
        return Issued({"access_token": token, "token_type": "Bearer", "expires_in": seconds, "scope": scope})
