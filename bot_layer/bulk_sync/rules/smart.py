"""SMART Backend Services without HTTP: what to send, and what an answer means.

https://hl7.org/fhir/smart-app-launch/backend-services.html
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Literal
from urllib.parse import quote

from bot_layer.errors import AuthError, PermanentError, TransientError
from bot_layer.fhir.json import Json, objects, read_object, text

SERVICE: Final = "Practice Fusion"
ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ASSERTION_SECONDS: Final = 290  # five minutes are allowed; clocks differ
TOKEN_MARGIN: Final = 30.0
_LONGEST_TOKEN: Final = 86_400
AUTHORIZE_HINT: Final = (
    "The practice has not authorized this app: its administrator must press 'Authorize App' in Practice Fusion."
)
Style = Literal["rs", "read"]
AuthMethod = Literal["private_key_jwt", "client_secret_basic", "client_secret_post"]

SCOPE: Final = re.compile(r"system/([A-Za-z*]+)\.(\S+)")


@dataclass(frozen=True)
class Discovery:
    """The token endpoint, and what the server states about itself."""

    token_endpoint: str
    auth_methods: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Token:
    """An access token, its expiry (seconds since 1970), and its granted scopes."""

    value: str
    expires_at: float
    scopes: frozenset[str] | None = None

    def fresh(self, now: float) -> bool:
        """True while it can still be sent. A short-lived token is used for three quarters of its life."""
        return now < self.expires_at


@dataclass(frozen=True)
class ScopeRefused:
    """The server refused the scopes, not the client. ``types`` are the types that it named."""

    types: frozenset[str] = frozenset()


def read_smart_configuration(document: Json) -> Discovery | None:
    """Parse ``.well-known/smart-configuration``; None if it names no token endpoint."""
    endpoint = document.get("token_endpoint")
    if not isinstance(endpoint, str) or not endpoint:
        return None
    return Discovery(
        endpoint,
        _strings(document.get("token_endpoint_auth_methods_supported")),
        _strings(document.get("scopes_supported")),
    )


def read_capability_statement(document: Json) -> Discovery | None:
    """The token endpoint of a CapabilityStatement's ``oauth-uris`` extension, or None."""
    securities = objects([each.get("security") for each in objects(document.get("rest"))])
    for extension in (each for security in securities for each in objects(security.get("extension"))):
        if str(extension.get("url", "")).endswith("/oauth-uris"):
            for part in objects(extension.get("extension")):
                if part.get("url") == "token" and part.get("valueUri"):
                    return Discovery(str(part["valueUri"]))
    return None


def assertion_claims(client_id: str, token_endpoint: str, *, now: float, unique: str) -> Json:
    """The claims of a client assertion: it is valid for less than five minutes and used once."""
    issued = int(now)
    return {
        "iss": client_id,
        "sub": client_id,
        "aud": token_endpoint,
        "iat": issued,
        "exp": issued + ASSERTION_SECONDS,
        "jti": unique,
    }


def auth_method(discovery: Discovery, *, has_key: bool) -> AuthMethod:
    """How to log in: with the key if there is one, else with the secret in the form that the server requires."""
    if has_key:
        return "private_key_jwt"
    offered = discovery.auth_methods
    only_post = "client_secret_post" in offered and "client_secret_basic" not in offered
    return "client_secret_post" if only_post else "client_secret_basic"


def token_request(
    method: AuthMethod, scopes: Iterable[str], *, client_id: str, secret: str = "", assertion: str = ""
) -> tuple[dict[str, str], dict[str, str]]:
    """The form and the headers of a token request, for one of the three ways to log in."""
    form = {"grant_type": "client_credentials", "scope": " ".join(scopes)}
    headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
    if method == "private_key_jwt":
        form |= {"client_assertion_type": ASSERTION_TYPE, "client_assertion": assertion}
    elif method == "client_secret_post":
        form |= {"client_id": client_id, "client_secret": secret}
    else:
        # RFC 6749 2.3.1: both are form-encoded before they are joined.
        pair = f"{quote(client_id, safe='')}:{quote(secret, safe='')}"
        headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
    return form, headers


def read_token(status: int, body: bytes, *, now: float, retry_after: float | None = None) -> Token | ScopeRefused:
    """The token, or ScopeRefused if only the scopes were refused; any other answer raises an error that says who must
    act."""
    document = read_object(body)
    value = document.get("access_token")
    if status == 200 and isinstance(value, str) and value:
        life = _seconds(document.get("expires_in"))
        scope = text(document.get("scope")).split()
        return Token(value, now + max(life - TOKEN_MARGIN, life * 0.75), frozenset(scope) or None)
    if status == 429 or status >= 500:
        raise TransientError(
            f"The token endpoint answered {status}.",
            service=SERVICE,
            status=status,
            method="POST",
            path="token",
            retry_after=retry_after,
        )
    is_refused = status in (400, 401, 403)
    said = " ".join(each for each in document.values() if isinstance(each, str))
    if b"not granted access" in body.lower():  # anywhere in the body: the form of this answer is not documented
        raise AuthError(AUTHORIZE_HINT, code="practice-must-authorize")
    if is_refused and "scope" in said.lower():
        return ScopeRefused(frozenset(match[1] for match in SCOPE.finditer(said)))
    if is_refused:
        raise AuthError(
            f"Token request failed: {phrase(status)}. Check PF_CLIENT_ID and its secret or key (PF_KEY_ID), that they "
            "have not expired, and that the app is authorized by the practice.",
            code="token-refused",
        )
    raise PermanentError(
        f"The token endpoint answered {status} without a token.",
        service=SERVICE,
        status=status,
        method="POST",
        path="token",
    )


def phrase(status: int) -> str:
    """A status with its standard phrase (RFC 9110), the same in every Python version: 3.13 renamed some."""
    known = {each.value: each.phrase for each in HTTPStatus} | {413: "Content Too Large", 422: "Unprocessable Entity"}
    return f"{status} {known.get(status, '')}".rstrip()


def _strings(value: object) -> tuple[str, ...]:
    return tuple(each for each in value if isinstance(each, str)) if isinstance(value, list) else ()


def _seconds(value: object) -> float:
    # Optional in RFC 6749; SMART recommends five minutes. Some servers send a string of digits.
    if isinstance(value, str) and value.isdecimal():
        value = int(value[:9])
    return float(min(value, _LONGEST_TOKEN)) if isinstance(value, int | float) and value > 0 else 300.0


# -- Scopes: which types they allow this client to read, and which to request
# (https://hl7.org/fhir/smart-app-launch/scopes-and-launch-context.html)

# Sends a token request for these scopes.
Ask = Callable[[tuple[str, ...]], Token | ScopeRefused]


def scope(resource_type: str, style: Style) -> str:
    """``system/Patient.rs`` (SMART v2) or ``system/Patient.read`` (v1)."""
    return f"system/{resource_type}.{style}"


def granted_types(scopes: frozenset[str], asked: Iterable[str]) -> frozenset[str]:
    """The requested types that the granted scopes allow this client to read."""
    readable = {match[1] for each in scopes if (match := SCOPE.fullmatch(each)) and _reads(match[2])}
    return frozenset(asked) if "*" in readable else frozenset(asked) & readable


def types_of(scopes: Iterable[str], wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The wanted types that the scopes name; all of them if the scopes name no types."""
    given = frozenset(scopes)
    if not any(each.startswith("system/") for each in given):
        return wanted
    readable = granted_types(given, wanted)
    return tuple(each for each in wanted if each in readable)


def _reads(permissions: str) -> bool:
    letters = permissions.partition("?")[0]
    return letters in ("read", "*") or ("r" in letters and set(letters) <= set("cruds"))


@dataclass(frozen=True)
class Negotiated:
    """The types that the source grants, and the style of their scopes."""

    accepted: tuple[str, ...]
    style: Style

    @property
    def scopes(self) -> tuple[str, ...]:
        """The scopes of every later request."""
        return tuple(scope(each, self.style) for each in self.accepted)


def negotiate(ask: Ask, types: Iterable[str], advertised: Iterable[str] = ()) -> Negotiated:
    """Ask for all types, first those that the server advertises, until it is known which ones it grants.

    One refused scope fails the whole request, often without saying which. So all scopes are requested at once in the
    newer style, then in the older; if both fail, halves are tried until the refused scopes are isolated.
    """
    wanted = tuple(dict.fromkeys(types))
    first = tuple(each for each in wanted if each in granted_types(frozenset(advertised), wanted)) or wanted
    style: Style = "rs"
    answer = _asked(ask, style, first)
    if _is_refused(answer, first):
        other = _asked(ask, "read", first)
        if not _is_refused(other, first):
            style, answer = "read", other
    accepted = _after(answer, ask, style, first)
    accepted += _accepted(ask, style, tuple(each for each in wanted if each not in first))
    if not accepted and style == "rs":
        style = "read"
        accepted = _after(ScopeRefused(), ask, style, wanted)
    return Negotiated(accepted, style)


def _is_refused(answer: Token | ScopeRefused, types: tuple[str, ...]) -> bool:
    """True for a refusal that names no type: the server may not know the style."""
    return isinstance(answer, ScopeRefused) and not answer.types & set(types)


def _asked(ask: Ask, style: Style, types: tuple[str, ...]) -> Token | ScopeRefused:
    return ask(tuple(scope(each, style) for each in types))


def _accepted(ask: Ask, style: Style, types: tuple[str, ...]) -> tuple[str, ...]:
    return _after(_asked(ask, style, types), ask, style, types) if types else ()


def _after(answer: Token | ScopeRefused, ask: Ask, style: Style, types: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the types that are granted, after the answer for all of them."""
    if isinstance(answer, Token):
        granted = types if answer.scopes is None else granted_types(answer.scopes, types)
        return tuple(each for each in types if each in granted)
    if answer.types & set(types):
        return _accepted(ask, style, tuple(each for each in types if each not in answer.types))
    if len(types) == 1:
        return ()
    middle = len(types) // 2
    return _accepted(ask, style, types[:middle]) + _accepted(ask, style, types[middle:])
