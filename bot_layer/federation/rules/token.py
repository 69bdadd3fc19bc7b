"""The token endpoint's rules: a request is a grant for a known client, or an OAuth error.

https://www.rfc-editor.org/rfc/rfc6749 (2.3.1 client password, 4.4 client credentials, 5.2 errors)
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote_plus

from bot_layer.errors import ConfigError
from bot_layer.fhir.json import Json

DEFAULT_SCOPES: Final = ("system/DocumentReference.read", "system/Binary.read")
# 16 MB and some tens of milliseconds: acceptable once an hour, and a stolen list of hashes stays useless.
_COST: Final = (2**14, 8, 1)
_FIELDS: Final = ("grant_type", "client_id", "client_secret", "aud", "scope")


@dataclass(frozen=True)
class Client:
    """An OAuth client: an id, the hash of its secret, and the scopes that it may have."""

    id: str
    secret_hash: str = field(repr=False)
    scopes: tuple[str, ...] = DEFAULT_SCOPES


@dataclass(frozen=True)
class Asked:
    """A valid token request whose secret is still to be checked."""

    client_id: str
    client_secret: str = field(repr=False)
    scope: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refused:
    """A refusal: the HTTP status and the OAuth error."""

    status: int
    error: str
    description: str

    def body(self) -> Json:
        """The JSON body of the response."""
        return {"error": self.error, "error_description": self.description}


def read_clients(text: str) -> tuple[Client, ...]:
    """The clients of FEDERATED_CLIENTS, a JSON list of ``{"id", "secretHash", "scopes"}``; else ConfigError."""
    try:
        clients = tuple(
            Client(str(entry["id"]), entry["secretHash"], tuple(map(str, entry.get("scopes") or DEFAULT_SCOPES)))
            for entry in json.loads(text)
        )
        for client in clients:
            _split(client.secret_hash)
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        raise ConfigError(
            'FEDERATED_CLIENTS is a JSON list of {"id", "secretHash"}; `medplum-bots federated-client` creates one.',
            code="invalid-setting",
        ) from fault
    if not clients or len({client.id for client in clients}) < len(clients):
        raise ConfigError("FEDERATED_CLIENTS needs clients with different ids.", code="invalid-setting")
    return clients


def hash_secret(secret: str, salt: bytes) -> str:
    """The text to keep instead of a secret: ``scrypt$<salt>$<hash>``, both base64."""
    return f"scrypt${base64.b64encode(salt).decode()}${base64.b64encode(_derived(secret, salt)).decode()}"


def is_secret(client: Client | None, secret: str) -> bool:
    """Whether this is the client's secret. It is as slow for an unknown client, so that the time does not reveal which
    ids exist."""
    salt, expected = _split(client.secret_hash) if client else (b"\0" * 16, b"")
    return hmac.compare_digest(_derived(secret, salt), expected)


def read_request(body: bytes, authorization: str | None, *, audiences: Sequence[str] = ()) -> Asked | Refused:
    """Parse a client-credentials request from a form body, with the secret in the body or in a Basic header."""
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=bool(body), max_num_fields=20)
    except ValueError:
        return Refused(400, "invalid_request", "Send a form: application/x-www-form-urlencoded.")
    form = {name: value for name, value in pairs if name in _FIELDS}
    if len(form) < sum(name in _FIELDS for name, _ in pairs):
        return Refused(400, "invalid_request", "A parameter is given twice.")
    if form.get("grant_type") != "client_credentials":
        return Refused(400, "unsupported_grant_type", "Only the grant_type client_credentials is supported.")
    if audiences and form.get("aud", "") not in audiences:
        return Refused(400, "invalid_target", "The aud names another server.")
    return _credentials(form, authorization)


def _credentials(form: Mapping[str, str], authorization: str | None) -> Asked | Refused:
    scope = tuple(form.get("scope", "").split())
    if authorization is None:
        if not form.get("client_id") or not form.get("client_secret"):
            return Refused(401, "invalid_client", "Send client_id and client_secret.")
        return Asked(form["client_id"], form["client_secret"], scope)
    if "client_secret" in form:
        return Refused(400, "invalid_request", "Send the secret in the body or in the header, not in both.")
    scheme, _, encoded = authorization.partition(" ")
    try:
        login = base64.b64decode(encoded.strip(), validate=True).decode()
    except ValueError:
        login = ""
    client_id, colon, secret = (unquote_plus(part) for part in login.partition(":"))
    if scheme.lower() != "basic" or not colon or form.get("client_id", client_id) != client_id:
        return Refused(401, "invalid_client", "The Authorization header is not this client's Basic login.")
    return Asked(client_id, secret, scope)


def _split(secret_hash: str) -> tuple[bytes, bytes]:
    scheme, salt, digest = secret_hash.split("$")
    if scheme != "scrypt":
        raise ValueError("a hash of another scheme")
    return base64.b64decode(salt, validate=True), base64.b64decode(digest, validate=True)


def _derived(secret: str, salt: bytes) -> bytes:
    n, r, p = _COST
    return hashlib.scrypt(secret.encode(), salt=salt, n=n, r=r, p=p, dklen=32)
