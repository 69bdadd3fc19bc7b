"""The token endpoint, which really verifies requests, and the tokens that it issued."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl

import jwt
from jwt.types import Options

from medplum_sandbox.health_gorilla.outcomes import refused
from medplum_sandbox.health_gorilla.switches import Switches
from medplum_sandbox.health_gorilla.wire import Answer, Ask, Refused

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
LEEWAY = 60


@dataclass(frozen=True)
class Client:
    """A registered client: ``scopes`` are those it may request, ``public_key`` returns its registered PEM."""

    client_id: str
    client_secret: str = field(repr=False)
    client_uri: str
    user_login: str
    scopes: tuple[str, ...]
    public_key: Callable[[], str] = field(repr=False)


@dataclass(frozen=True)
class _Token:
    scopes: frozenset[str]
    expires: float


class TokenRefused(Exception):
    """An OAuth error: the code that RFC 6749 names, and words."""

    def __init__(self, code: str, description: str) -> None:
        super().__init__(code)
        self.answer = Answer(400, {"error": code, "error_description": description}, content_type="application/json")


class Authority:
    """Gives tokens and knows them again."""

    def __init__(self, client: Client, *, audience: str, switches: Switches, clock: Callable[[], float]) -> None:
        self.client = client
        self.audience = audience
        self._switches = switches
        self._clock = clock
        self._tokens: dict[str, _Token] = {}
        self._lock = threading.Lock()

    def token(self, ask: Ask) -> Answer:
        """The answer to a token request."""
        try:
            form = _form(ask)
            scopes = self._grant(form)
        except TokenRefused as no:
            return no.answer
        value = secrets.token_urlsafe(24)
        with self._lock:
            self._tokens[value] = _Token(frozenset(scopes), self._clock() + self._switches.expires_in)
        content = {
            "access_token": value,
            "token_type": "Bearer",
            "expires_in": self._switches.expires_in,
            "scope": " ".join(scopes),
        }
        return Answer(200, content, {"Cache-Control": "no-store"}, "application/json")

    def info(self, ask: Ask) -> Answer:
        """Whether a token is active (``/oauth/info?access_token=``)."""
        with self._lock:
            known = self._tokens.get("".join(ask.values("access_token")))
        active = known is not None and known.expires > self._clock()
        content: dict[str, Any] = {"active": active}
        if known is not None and active:
            content |= {"scope": " ".join(sorted(known.scopes)), "expires_in": int(known.expires - self._clock())}
        return Answer(200, content, content_type="application/json")

    def cancel(self, ask: Ask) -> Answer:
        """Forgets a token (``/oauth/cancel?token=``)."""
        with self._lock:
            self._tokens.pop("".join(ask.values("token")), None)
        return Answer(200, {}, content_type="application/json")

    def expire(self) -> None:
        """Makes every token given so far end now, before the time that it was promised."""
        with self._lock:
            self._tokens = {value: replace(token, expires=self._clock()) for value, token in self._tokens.items()}

    def scopes(self, ask: Ask) -> frozenset[str]:
        """The scopes of the request's token, else 401."""
        scheme, _, value = ask.headers.get("authorization", "").partition(" ")
        with self._lock:
            token = self._tokens.get(value)
        if scheme.lower() != "bearer" or token is None:
            raise unauthorized("invalid_token")
        if token.expires <= self._clock():
            raise unauthorized("expired_token")
        return token.scopes

    def _grant(self, form: Mapping[str, str]) -> list[str]:
        grant = form.get("grant_type")
        allowed = self._switches.grants
        if grant == JWT_BEARER and not allowed.isdisjoint({"jwt-bearer", "jwt-bearer-key"}):
            self._check_client_id(form, required=self._switches.client_id_required)
            by_secret = "jwt-bearer" in allowed
            key = self.client.client_secret if by_secret else self.client.public_key()
            claims = _verified(form.get("assertion", ""), key=key, algorithm="HS256" if by_secret else "RS384")
            self._check_claims(claims, as_client=self._switches.subject == "client")
        elif grant == "client_credentials" and "client_assertion" in form and "client-assertion" in allowed:
            if form.get("client_assertion_type") != ASSERTION_TYPE:
                raise TokenRefused("invalid_client", "client_assertion_type is missing or unknown")
            self._check_client_id(form, required=False)
            claims = _verified(form["client_assertion"], key=self.client.public_key(), algorithm="RS384")
            self._check_claims(claims, as_client=True)
        elif grant == "client_credentials" and "client_secret" in form and "client-secret" in allowed:
            self._check_client_id(form, required=True)
            if not secrets.compare_digest(form["client_secret"].encode(), self.client.client_secret.encode()):
                raise TokenRefused("invalid_client", "improper client secret")
        else:
            raise TokenRefused("unsupported_grant_type", "this client is not registered for this grant")
        return self._granted(form.get("scope", "").split())

    def _check_client_id(self, form: Mapping[str, str], *, required: bool) -> None:
        if "client_id" not in form and not required:
            return
        if form.get("client_id") != self.client.client_id:
            raise TokenRefused("invalid_client", "improper client id")

    def _check_claims(self, claims: Mapping[str, Any], *, as_client: bool) -> None:
        issuer = self.client.client_id if as_client else self.client.client_uri
        subject = self.client.client_id if as_client else self.client.user_login
        if claims.get("iss") != issuer:
            raise TokenRefused("invalid_client", "improper client id")
        if claims.get("sub") != subject:
            raise TokenRefused("invalid_grant", "Subject validation failed")
        if claims.get("aud") != self.audience:
            raise TokenRefused("invalid_grant", "aud is not this token endpoint")
        self._check_times(claims)

    def _check_times(self, claims: Mapping[str, Any]) -> None:
        now = self._clock()
        required = ["exp", "iat", *(["nbf"] if self._switches.nbf_required else [])]
        for name in required:
            if not isinstance(claims.get(name), int | float):
                raise TokenRefused("invalid_grant", f"{name} is missing")
        if claims["exp"] <= now - LEEWAY:
            raise TokenRefused("invalid_grant", "the assertion has expired")
        if claims["iat"] > now + LEEWAY or claims.get("nbf", now) > now + LEEWAY:
            raise TokenRefused("invalid_grant", "the assertion is from the future")
        if claims["exp"] <= claims["iat"]:
            raise TokenRefused("invalid_grant", "exp is not after iat")

    def _granted(self, asked: list[str]) -> list[str]:
        unknown = [scope for scope in asked if scope not in self.client.scopes]
        if unknown and self._switches.unregistered_scope == "refused":
            raise TokenRefused("invalid_scope", "a scope is not registered for this client")
        return [scope for scope in asked if scope not in unknown] if asked else list(self.client.scopes)


def unauthorized(error: str) -> Refused:
    """A 401 of the FHIR endpoints: ``invalid_token`` or ``expired_token``."""
    return Refused(
        Answer(
            401,
            {"error": error, "error_description": "Get a new token."},
            {"WWW-Authenticate": f'Bearer error="{error}"'},
            "application/json",
        )
    )


def forbidden(scope: str) -> Refused:
    """A 403 for a token that lacks a scope."""
    no = refused(403, "forbidden", f"insufficient_scope: this needs {scope}")
    header = {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'}
    return Refused(replace(no.answer, headers=header))


def _verified(assertion: str, *, key: str, algorithm: str) -> dict[str, Any]:
    # Times and audience are checked later, against the look-alike's own clock and with the documents' text.
    options: Options = {"verify_exp": False, "verify_iat": False, "verify_nbf": False, "verify_aud": False}
    try:
        return jwt.decode(assertion, key, algorithms=[algorithm], options=options)
    except jwt.InvalidTokenError:
        raise TokenRefused("invalid_grant", f"the assertion is not signed with {algorithm} and this key") from None


def _form(ask: Ask) -> dict[str, str]:
    kind = ask.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/x-www-form-urlencoded":
        return dict(parse_qsl(ask.body.decode("utf-8", "replace"), keep_blank_values=True))
    if kind == "application/json":
        try:
            form = json.loads(ask.body)
        except ValueError:
            form = None
        if isinstance(form, dict) and form.get("grant_type") == "client_credentials":
            return {str(key): str(value) for key, value in form.items()}
    raise TokenRefused("invalid_request", "send the request as a form")
