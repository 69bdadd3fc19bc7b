"""The login to a source of bulk data: SMART Backend Services, with a private key or a secret.

https://hl7.org/fhir/smart-app-launch/backend-services.html
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlencode, urlsplit

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from bot_layer.bulk_sync.rules import smart
from bot_layer.bulk_sync.rules.settings import SyncSettings
from bot_layer.bulk_sync.rules.smart import SERVICE, AuthMethod, Discovery, ScopeRefused, Token
from bot_layer.bulk_sync.rules.source_identity import POINTED_TO, USUALLY_GRANTED
from bot_layer.bulk_sync.source.requests import Log, OpenRequests
from bot_layer.errors import AuthError, ConfigError, PermanentError, TransientError
from bot_layer.fhir.json import read_object
from bot_layer.http.policy import BUSY
from bot_layer.http.retry import repeat
from bot_layer.http.single_flight import SingleFlight

_CURVES: Final = {"secp384r1": "ES384", "secp256r1": "ES256"}


@dataclass
class SourceLogin:
    """Our token for one practice's server: discovery, scope negotiation and renewal. Thread-safe."""

    settings: SyncSettings
    requests: OpenRequests
    log: Log = field(default=lambda _component, _text: None, repr=False)
    granted: tuple[str, ...] = ()  # the scopes, if they are known
    discovery: Discovery | None = None  # what an earlier run found; read again if the login there fails

    def __post_init__(self) -> None:
        self._tokens: SingleFlight[Token] = SingleFlight(SERVICE)
        self._token: Token | None = None
        self._is_discovered = False

    def discover(self) -> Discovery:
        """The token endpoint, from the SMART configuration or else the CapabilityStatement; read once."""
        if self.discovery is None:
            self.log("PFSyncWorker", "Discovering SMART endpoints...")
            self.discovery = self._read_discovery()
            self._is_discovered = True
            self.log("PFSyncWorker", f"Token endpoint: {_place(self.discovery.token_endpoint)}")
        return self.discovery

    def _read_discovery(self) -> Discovery:
        readers = (
            (".well-known/smart-configuration", smart.read_smart_configuration),
            ("metadata", smart.read_capability_statement),
        )
        busy = False
        for path, read in readers:
            # Both are under the base URL, never at the host's root.
            url = f"{self.settings.source}/{path}"
            reply = self.requests.repeated(url, path=path, headers={"Accept": "application/json"})
            found = read(read_object(reply.body)) if reply.status == 200 else None
            if found is not None:
                self.requests.guard.check(found.token_endpoint)
                return found
            busy = busy or reply.status in BUSY
        if busy:
            raise TransientError("The source is too busy to name its token endpoint.", service=SERVICE, path=path)
        raise ConfigError(
            "The source names no token endpoint: check PF_FHIR_BASE_URL (it ends in the practice's id).",
            code="no-token-endpoint",
        )

    def negotiate(self, types: tuple[str, ...]) -> tuple[str, ...]:
        """Those of the types that this client may read; their scopes are kept for the next tokens."""
        if self.settings.scopes:
            self.granted = self.settings.scopes
            readable = smart.types_of(self.settings.scopes, types)
            if not readable:
                raise AuthError(
                    "PF_SCOPES allows no type of PF_RESOURCE_TYPES to be read: name scopes such as system/*.rs.",
                    code="no-scope-granted",
                )
            return readable
        advertised = self.discover().scopes
        # Rights to read referenced types are requested only if they are advertised: a refusal costs requests.
        offered = smart.granted_types(frozenset(advertised), POINTED_TO) if self.settings.hydrate else frozenset()
        wanted = (*types, *sorted(offered - set(types)))
        asked: tuple[str, ...] = ()

        def ask(some: tuple[str, ...]) -> Token | ScopeRefused:
            nonlocal asked
            asked = some
            return self._ask(some)

        likely = advertised or tuple(smart.scope(each, "rs") for each in USUALLY_GRANTED)
        found = smart.negotiate(ask, wanted, likely)
        if asked != found.scopes:
            self._token = None  # it was only for some of the types
        accepted = tuple(each for each in types if each in found.accepted)
        if not accepted:
            raise AuthError("The source refused every requested scope.", code="no-scope-granted")
        self.granted = found.scopes
        return accepted

    def token(self, *, stale: str = "") -> str:
        """A currently valid token. ``stale`` is one that the server has just refused."""
        token = self._good(stale) or self._tokens.do("token", lambda: self._renewed(stale))
        return token.value

    def _good(self, stale: str) -> Token | None:
        token = self._token
        is_good = token is not None and token.value != stale and token.fresh(self.requests.clock())
        return token if is_good else None

    def _renewed(self, stale: str) -> Token:
        """A new token, unless another caller or the negotiation has already got one."""
        if not self.granted and not self._good(stale):
            self.negotiate(self.settings.types)
        answer = self._good(stale) or self._ask(self.granted)
        if isinstance(answer, Token):
            return answer
        if self.settings.scopes:
            raise AuthError("The source refuses the scopes of PF_SCOPES.", code="no-scope-granted")
        # The scopes granted at the start are no longer granted.
        self.negotiate(self.settings.types)
        answer = self._good(stale) or self._ask(self.granted)
        if isinstance(answer, ScopeRefused):
            raise AuthError("The source refuses the scopes that it granted before.", code="scopes-withdrawn")
        return answer

    def _ask(self, scopes: tuple[str, ...]) -> Token | ScopeRefused:
        """The answer to a token request. The token endpoint that an earlier run found may have moved."""
        before = self.discover()
        try:
            return self._asked(before, scopes)
        except (PermanentError, AuthError, TransientError):
            if self._is_discovered:
                raise
            self.discovery = None
            now = self.discover()
            if (now.token_endpoint, now.auth_methods) == (before.token_endpoint, before.auth_methods):
                raise
            return self._asked(now, scopes)

    def _asked(self, discovery: Discovery, scopes: tuple[str, ...]) -> Token | ScopeRefused:
        method = smart.auth_method(discovery, has_key=bool(self.settings.private_key))
        self.log("PFSmartClient", "Requesting access token from Practice Fusion...")
        name = "private_key JWT" if method == "private_key_jwt" else "client_secret"
        self.log("PFSmartClient", f"Using {name} authentication")
        answer = repeat(
            lambda: self._post(discovery, method, scopes),
            self.requests.policy,
            when=lambda _: True,
            wait=self.requests.wait,
        )
        if isinstance(answer, Token):
            self._token = answer
            self.log("PFSmartClient", "Successfully obtained access token")
        return answer

    def _post(self, discovery: Discovery, method: AuthMethod, scopes: tuple[str, ...]) -> Token | ScopeRefused:
        form, headers = smart.token_request(
            method,
            scopes,
            client_id=self.settings.client_id,
            secret=self.settings.client_secret,
            # A new assertion for each attempt: its jti is used once.
            assertion=self._assertion(discovery) if method == "private_key_jwt" else "",
        )
        body = urlencode(form).encode()
        reply = self.requests.once("POST", discovery.token_endpoint, path="token", headers=headers, body=body)
        if reply.status >= 400:
            self.log("PFSmartClient", f"Token request failed: {smart.phrase(reply.status)}")
        now = self.requests.clock()
        return smart.read_token(reply.status, reply.body, now=now, retry_after=reply.retry_after(now))

    def _assertion(self, discovery: Discovery) -> str:
        settings, now = self.settings, self.requests.clock()
        unique = uuid.uuid4().hex
        claims = smart.assertion_claims(settings.client_id, discovery.token_endpoint, now=now, unique=unique)
        headers = {"kid": settings.key_id} | ({"jku": settings.key_url} if settings.key_url else {})
        algorithm = _algorithm(settings.private_key, settings.algorithm)
        return jwt.encode(claims, settings.private_key, algorithm=algorithm, headers=headers)


def _algorithm(private_key: str, asked: str) -> str:
    """The algorithm to sign assertions with: the requested one, if the key supports it."""
    fitting = _fitting(private_key)
    if asked and asked not in fitting:
        raise ConfigError(
            f"PF_KEY_ALGORITHM does not fit PF_PRIVATE_KEY, which is a key for {' or '.join(fitting)}.",
            code="wrong-settings",
            missing=["PF_KEY_ALGORITHM"],
        )
    return asked or fitting[0]


def _fitting(private_key: str) -> tuple[str, ...]:
    """The algorithms for a key, first RS384 (RSA) or ES384 or ES256 (elliptic curve), which SMART asks servers to
    support."""
    try:
        key = load_pem_private_key(private_key.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as fault:
        raise ConfigError(
            "PF_PRIVATE_KEY is no PEM private key (PKCS8), or is locked with a password.", code="unreadable-key"
        ) from fault
    if isinstance(key, rsa.RSAPrivateKey):
        return "RS384", "RS256"
    curve = key.curve.name if isinstance(key, ec.EllipticCurvePrivateKey) else ""
    if curve not in _CURVES:
        raise ConfigError("PF_PRIVATE_KEY must be an RSA key, or one for P-384 or P-256.", code="unreadable-key")
    return (_CURVES[curve],)


def _place(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/..."
