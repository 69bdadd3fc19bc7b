"""A bearer token of Health Gorilla: asked for once, kept until it expires, shared by all calls and threads of the
process.

Grants: ``jwt-bearer`` (a JWT signed with the client secret, as working integrations do), ``client-assertion`` and
``client-secret`` (client_credentials). https://developer.healthgorilla.com/docs/oauth20
"""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jwt
from cachetools import LRUCache

from bot_layer.errors import AuthError, ConfigError
from bot_layer.health_gorilla.rules.settings import HealthGorilla
from bot_layer.http.single_flight import SingleFlight
from bot_layer.http.transport import Answer, Transport

_LIFETIME = 300
# A partner whose clock is a little behind must not take the assertion for one of the future.
_SKEW = 30
_MARGIN = 60.0
_KEPT = 64
_JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
# https://www.rfc-editor.org/rfc/rfc6749#section-5.2: any other text might be about a person.
_CODES = frozenset({"invalid_grant", "invalid_client", "invalid_scope", "unsupported_grant_type"})
# https://www.rfc-editor.org/rfc/rfc6750#section-2.1, and whatever else is visible ASCII.
_BEARER = re.compile(r"[\x21-\x7e]+")
_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass(frozen=True)
class Token:
    """A token, the scopes that were granted, and when it ends (seconds since 1970)."""

    value: str = field(repr=False)
    scopes: frozenset[str]
    ends: float


class TokenStore:
    """Tokens by settings, the most recent ones. One thread asks; the others get its answer, or its failure."""

    def __init__(self) -> None:
        self._tokens: LRUCache[HealthGorilla, Token] = LRUCache(_KEPT)
        self._requests: SingleFlight[Token] = SingleFlight("Health Gorilla")
        self._lock = threading.Lock()

    def get(self, settings: HealthGorilla, transport: Transport, clock: Callable[[], float]) -> Token:
        """A token that lives for another minute at least."""

        def ask() -> Token:
            # Another request may have ended since this caller looked.
            kept = self._kept(settings, clock)
            if kept is not None:
                return kept
            token = request_token(settings, transport, clock())
            with self._lock:
                self._tokens[settings] = token
            return token

        return self._kept(settings, clock) or self._requests.do(settings, ask)

    def drop(self, settings: HealthGorilla, token: Token) -> None:
        """Forget a token that was refused before its time, unless another thread has replaced it."""
        with self._lock:
            if self._tokens.get(settings) is token:
                del self._tokens[settings]

    def _kept(self, settings: HealthGorilla, clock: Callable[[], float]) -> Token | None:
        with self._lock:
            kept = self._tokens.get(settings)
            return kept if kept is not None and kept.ends - _MARGIN > clock() else None


def request_token(settings: HealthGorilla, transport: Transport, now: float) -> Token:
    """A fresh token. AuthError where the login is refused, with what to check."""
    answer = transport.send("POST", settings.token_url, path="oauth/token", form=_form(settings, now))
    if not answer.ok:
        raise _refusal(answer)
    granted = answer.json()
    value = granted.get("access_token") if isinstance(granted, dict) else None
    if not isinstance(value, str) or not _BEARER.fullmatch(value):
        raise answer.unreadable("answered its token request without a usable token")
    lifetime = granted.get("expires_in")
    seconds = float(lifetime) if isinstance(lifetime, int | float) else 3600.0
    scopes = str(granted.get("scope") or settings.scopes)
    return Token(value, frozenset(scopes.split()), now + seconds)


def assertion(settings: HealthGorilla, now: float) -> str:
    """The signed JWT that stands for the client. ConfigError where the key can't sign."""
    key = settings.client_secret if settings.algorithm == "HS256" else settings.private_key
    began = int(now) - _SKEW
    claims = {
        "iss": settings.issuer,
        "sub": settings.subject,
        "aud": settings.audience,
        "iat": began,
        "nbf": began,
        "exp": began + _LIFETIME,
        "jti": str(uuid.uuid4()),
    }
    headers = {"kid": settings.key_id} if settings.key_id else None
    try:
        return jwt.encode(claims, key, algorithm=settings.algorithm, headers=headers)
    except (ValueError, TypeError, jwt.PyJWTError) as fault:
        raise ConfigError(
            f"HEALTH_GORILLA_PRIVATE_KEY is not a PEM key that can sign with {settings.algorithm}.",
            code="invalid-setting",
        ) from fault


def _form(settings: HealthGorilla, now: float) -> dict[str, str]:
    form = {"client_id": settings.client_id, "scope": settings.scopes}
    if settings.grant == "jwt-bearer":
        return {**form, "grant_type": _JWT_BEARER, "assertion": assertion(settings, now)}
    form["grant_type"] = "client_credentials"
    if settings.grant == "client-secret":
        return {**form, "client_secret": settings.client_secret}
    return {**form, "client_assertion_type": _ASSERTION_TYPE, "client_assertion": assertion(settings, now)}


def _refusal(answer: Answer) -> Exception:
    if answer.status not in {400, 401, 403}:
        return answer.error()
    said: Any = answer.outcome().get("error")
    code = said if isinstance(said, str) and said in _CODES else "login"
    checks = "client id, secret or key, issuer, subject, audience and scopes"
    return AuthError(f"Health Gorilla refused the login ({code}): check {checks}.", code="health-gorilla-login-refused")
