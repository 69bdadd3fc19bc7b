"""The token endpoint: who may log in how, and for which scopes. https://hl7.org/fhir/smart-app-launch/backend-services.html"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

import jwt

from medplum_sandbox.json import Json
from medplum_sandbox.practice_fusion.switches import Switches

ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
LONGEST_LIFE: Final = 300

Answer = tuple[int, Json]


@dataclass(frozen=True)
class Grant:
    """What one access token may do, and until when."""

    scopes: tuple[str, ...]
    expires: float

    def allows(self, kind: str) -> bool:
        """Whether resources of this type may be read."""
        return any(scope.split("/")[1].split(".")[0] in {kind, "*"} for scope in self.scopes)


class _Refused(Exception):
    """The client could not show who it is."""


@dataclass
class TokenDesk:
    """Keys and secret of the one registered client, and its tokens."""

    switches: Switches
    clock: Callable[[], float]
    client_id: str = "practice-fusion-client"
    client_secret: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    app_authorized: bool = False
    keys: dict[str, tuple[str, str]] = field(default_factory=dict)
    _grants: dict[str, Grant] = field(default_factory=dict, repr=False)
    _seen: set[str] = field(default_factory=set, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def answer(self, form: Mapping[str, str], authorization: str | None, token_url: str) -> Answer:
        """Status and body of a token request."""
        if form.get("grant_type") != "client_credentials":
            return 400, {"error": "unsupported_grant_type"}
        try:
            self._identify(form, authorization, token_url)
        except _Refused as refused:
            return 401, {"error": "invalid_client", "error_description": str(refused)}
        if self.switches.needs_app_authorization and not self.app_authorized:
            return 401, _odd("practice has not granted access to system application")
        return self._grant(form.get("scope", "").split())

    def check(self, authorization: str | None) -> Grant | None:
        """What the bearer of this header may do; None when the token is unknown or too old."""
        with self._lock:
            grant = self._grants.get(_bearer(authorization))
        return grant if grant is not None and grant.expires > self.clock() else None

    def revoke(self, authorization: str | None) -> None:
        """Ends the life of the token in this header."""
        with self._lock:
            self._grants.pop(_bearer(authorization), None)

    def revoke_all(self) -> None:
        """Ends the life of all tokens, as an outage of the token service does."""
        with self._lock:
            self._grants.clear()

    def _grant(self, asked: list[str]) -> Answer:
        good = [scope for scope in asked if self._grantable(scope)]
        if not good or (len(good) < len(asked) and not self.switches.narrows_scopes):
            if self.switches.odd_refusals:
                return 401, _odd("client does not have permissions to requested scope")
            return 400, {"error": "invalid_scope", "error_description": "A scope is not available to this client."}
        token = secrets.token_urlsafe(32)
        with self._lock:
            self._grants[token] = Grant(tuple(good), self.clock() + self.switches.token_seconds)
        return 200, {
            "access_token": token,
            "token_type": "bearer",
            "expires_in": self.switches.token_seconds,
            "scope": " ".join(good),
        }

    def _grantable(self, scope: str) -> bool:
        context, _, rest = scope.partition("/")
        kind, _, access = rest.partition(".")
        syntax = {"read": "v1", "rs": "v2", "r": "v2", "s": "v2"}.get(access)
        known = kind in self.switches.types or (kind in {"*", "Group"} and not self.switches.odd_refusals)
        return context == "system" and known and syntax in self.switches.scope_syntax

    def _identify(self, form: Mapping[str, str], authorization: str | None, token_url: str) -> None:
        if "client_assertion" in form:
            self._need("private_key_jwt")
            if form.get("client_assertion_type") != ASSERTION_TYPE:
                raise _Refused("client_assertion_type is missing or unknown.")
            self._check_assertion(form["client_assertion"], token_url)
            return
        if authorization is not None and authorization.lower().startswith("basic "):
            self._need("client_secret_basic")
            given = _basic(authorization)
        else:
            self._need("client_secret_post")
            given = form.get("client_id", ""), form.get("client_secret", "")
        if given[0] != self.client_id or not hmac.compare_digest(given[1].encode(), self.client_secret.encode()):
            raise _Refused("Client or secret is wrong.")

    def _need(self, method: str) -> None:
        if method not in self.switches.token_methods:
            raise _Refused(f"This server does not accept {method}.")

    def _check_assertion(self, assertion: str, token_url: str) -> None:
        try:
            header = jwt.get_unverified_header(assertion)
            kid = header.get("kid")
            if kid not in self.keys:
                raise _Refused("The kid of the assertion's header is missing or not registered.")
            pem, alg = self.keys[kid]
            if header.get("alg") != alg or alg not in self.switches.algorithms:
                raise _Refused("The assertion is signed with another algorithm.")
            # Times are compared below, with this server's own clock.
            options = {"verify_exp": False, "verify_iat": False, "verify_nbf": False, "require": ["exp", "jti", "aud"]}
            claims = jwt.decode(assertion, pem, algorithms=[alg], audience=token_url, options=options)  # type: ignore[arg-type]  # a plain dict of options
        except jwt.PyJWTError as error:
            raise _Refused(f"The assertion cannot be accepted: {type(error).__name__}.") from error
        self._check_claims(claims)

    def _check_claims(self, claims: Json) -> None:
        if not claims.get("iss") == claims.get("sub") == self.client_id:
            raise _Refused("iss and sub must both be the client's id.")
        now = self.clock()
        if not now < claims["exp"] <= now + LONGEST_LIFE:
            raise _Refused("exp must lie within the next 300 seconds.")
        with self._lock:
            if claims["jti"] in self._seen:
                raise _Refused("This jti was used before.")
            self._seen.add(claims["jti"])


def _odd(message: str) -> Json:
    """The shape of Practice Fusion's refusals, which is not OAuth's."""
    return {"subcode": "Unauthorized", "message": message}


def _bearer(authorization: str | None) -> str:
    scheme, _, token = (authorization or "").partition(" ")
    return token if scheme.lower() == "bearer" else ""


def _basic(authorization: str) -> tuple[str, str]:
    try:
        user, _, password = base64.b64decode(authorization[6:], validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return unquote(user), unquote(password)  # RFC 6749 section 2.3.1 form-encodes both
