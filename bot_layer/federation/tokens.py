"""Tokens of the federated responder: issued to a known client, signed, short-lived; failed logins are counted.

https://www.rfc-editor.org/rfc/rfc9068 (the claims), https://www.rfc-editor.org/rfc/rfc8725 (one algorithm, all checked)
"""

from __future__ import annotations

import hmac
import secrets
import threading
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import jwt

from bot_layer.federation.rules import scopes
from bot_layer.federation.rules.token import Client, Refused, is_secret, read_request
from bot_layer.federation.settings import Serving
from bot_layer.fhir.json import Json

_ALGORITHM = "HS256"
_WINDOW = 60.0
_MOST_COUNTED = 10_000
# A check costs 16 MB and some tens of milliseconds: a flood of logins must not exhaust the host's memory.
_AT_ONCE = 2
# Further logins are refused: queries with a valid token must not wait behind a flood of logins.
_MOST_WAITING = 8
_CLAIMS = ["iss", "aud", "sub", "exp", "iat", "jti"]


@dataclass
class Attempts:
    """Failed logins of the last minute, by client and address. Safe to share between threads."""

    most: int
    clock: Callable[[], float] = field(repr=False)
    counted: dict[str, deque[float]] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def wait(self, key: str) -> int | None:
        """Seconds to wait before the next login attempt; None if it is allowed now."""
        with self._lock:
            recent = self._recent(key)
            return max(1, round(recent[0] + _WINDOW - self.clock())) if len(recent) >= self.most else None

    def failed(self, key: str) -> None:
        """Count a failed login."""
        with self._lock:
            if len(self.counted) >= _MOST_COUNTED:
                self.counted = {each: times for each in list(self.counted) if (times := self._recent(each))}
            self.counted.setdefault(key, deque(maxlen=self.most)).append(self.clock())

    def _recent(self, key: str) -> deque[float]:
        times = self.counted.get(key, deque())
        while times and times[0] <= self.clock() - _WINDOW:
            times.popleft()
        return times


@dataclass(frozen=True)
class Caller:
    """The sender of a token: the client, and the scopes that the token was issued with."""

    client: str
    scopes: tuple[str, ...] = ()


class Tokens:
    """The token endpoint without HTTP. ``waiting`` limits how many logins wait for their check."""

    def __init__(self, serving: Serving, clock: Callable[[], float]) -> None:
        self.waiting = threading.Semaphore(_MOST_WAITING)
        self._serving = serving
        self._clock = clock
        self._attempts = Attempts(serving.attempts, clock)
        self._checking = threading.Semaphore(_AT_ONCE)
        self._known: dict[str, bytes] = {}
        self._digest_key = secrets.token_bytes(32)

    def answer(self, body: bytes, authorization: str | None, address: str) -> Json | Refused:
        """A token if the secret is right, even after failed logins of others; else a refusal, with 429 after too many
        attempts."""
        asked = read_request(body, authorization, audiences=self._serving.audiences)
        if isinstance(asked, Refused):
            return asked
        client = self._serving.client(asked.client_id)
        is_right = self._is_right(client, asked.client_secret)
        if is_right is None:
            return Refused(503, "temporarily_unavailable", "Too many logins at once; try again in a moment.")
        if client is not None and is_right:
            return self._issued(client, " ".join(scopes.granted(client.scopes, asked.scope)))
        attempt = f"{address} {asked.client_id}"
        if (wait := self._attempts.wait(attempt)) is not None:
            return Refused(429, "temporarily_unavailable", f"Too many wrong logins; wait {wait} seconds.")
        self._attempts.failed(attempt)
        return Refused(401, "invalid_client", "The client or its secret is wrong.")

    def _is_right(self, client: Client | None, secret: str) -> bool | None:
        """Whether this is the client's secret; None if too many logins wait. A secret that was right before needs no
        new check, so a flood of logins does not lock out valid clients."""
        digest = hmac.digest(self._digest_key, secret.encode(), "sha256")
        if client is not None and hmac.compare_digest(self._known.get(client.id, b""), digest):
            return True
        if not self.waiting.acquire(blocking=False):
            return None
        try:
            with self._checking:
                is_right = is_secret(client, secret)
        finally:
            self.waiting.release()
        if client is not None and is_right:
            self._known[client.id] = digest
        return is_right

    def _issued(self, client: Client, scope: str) -> Json:
        now, seconds = int(self._clock()), self._serving.token_seconds
        claims = {
            "iss": self._serving.base_url,
            "aud": self._serving.fhir_url,
            "sub": client.id,
            "client_id": client.id,
            "scope": scope,
            "iat": now,
            "exp": now + seconds,
            "jti": uuid.uuid4().hex,
        }
        token = jwt.encode(claims, self._serving.signing_key, algorithm=_ALGORITHM, headers={"typ": "at+jwt"})
        return {"access_token": token, "token_type": "Bearer", "expires_in": seconds, "scope": scope}

    def caller(self, authorization: str | None) -> Caller | None:
        """The caller that a token was issued to; None if it is not ours, has expired, or its client was removed."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            return None
        try:
            # The clock is an argument here, so the library must not use its own. A token whose iat is the current
            # second, or slightly ahead because of another host's clock, is valid.
            claims = jwt.decode(
                token.strip(),
                self._serving.signing_key,
                algorithms=[_ALGORITHM],
                audience=self._serving.fhir_url,
                issuer=self._serving.base_url,
                options={"require": _CLAIMS, "verify_exp": False, "verify_iat": False},
            )
        except jwt.InvalidTokenError:
            return None
        if claims["exp"] <= self._clock() or self._serving.client(claims["sub"]) is None:
            return None
        return Caller(str(claims["sub"]), tuple(str(claims.get("scope") or "").split()))
