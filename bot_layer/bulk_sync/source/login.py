"""The login to a source of bulk data: SMART Backend Services, with a private key or a secret.

https://hl7.org/fhir/smart-app-launch/backend-services.html
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlencode, urlsplit

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from bot_layer.bulk_sync.rules import scopes, smart
from bot_layer.bulk_sync.rules.settings import SyncSettings
from bot_layer.bulk_sync.rules.source_identity import POINTED_TO, USUALLY_GRANTED
from bot_layer.bulk_sync.source.requests import BUSY, SERVICE, Log, OpenRequests
from bot_layer.errors import AuthError, ConfigError, PermanentError, TransientError
from bot_layer.fhir.json import read_object
from bot_layer.http.single_flight import SingleFlight

_CURVES: Final = {"secp384r1": "ES384", "secp256r1": "ES256"}


@dataclass
class SourceLogin:
    """Our token for one practice's server: discovery, scope negotiation and renewal. Thread-safe."""

    settings: SyncSettings
    requests: OpenRequests
    unique: Callable[[], str] = field(default=lambda: uuid.uuid4().hex, repr=False)
    log: Log = field(default=lambda _component, _text: None, repr=False)
    granted: tuple[str, ...] = ()
    discovery: smart.Discovery | None = None  # what an earlier run found; repeated if the token endpoint is gone

    def __post_init__(self) -> None:
        self.types = self.settings.types
        self._discoveries: SingleFlight[smart.Discovery] = SingleFlight(SERVICE)
        self._tokens: SingleFlight[smart.Token] = SingleFlight(SERVICE)
        self._fresh_discovery = False
        self._token: smart.Token | None = None

    def discover(self) -> smart.Discovery:
        """The token endpoint, from the SMART configuration or else the CapabilityStatement."""
        return self.discovery or self._discoveries.do("discovery", lambda: self.discovery or self._discovered())

    def _discovered(self) -> smart.Discovery:
        self.log("PFSyncWorker", "Discovering SMART endpoints...")
        self.discovery = found = self._read_discovery()
        self._fresh_discovery = True
        self.log("PFSyncWorker", f"Token endpoint: {_place(found.token_endpoint)}")
        return found

    def _read_discovery(self) -> smart.Discovery:
        configuration, capability = smart.discovery_urls(self.settings.source)
        readers = (
            (configuration, smart.read_smart_configuration, ".well-known/smart-configuration"),
            (capability, smart.read_capability_statement, "metadata"),
        )
        busy = False
        for url, read, path in readers:
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

    def negotiate(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Those of ``types`` that this client may read, and those that the source refused; the scopes are kept."""
        if self.settings.scopes:
            self.granted = self.settings.scopes
            readable = scopes.types_of(self.settings.scopes, self.types)
            if not readable:
                raise AuthError(
                    "PF_SCOPES lets no type of PF_RESOURCE_TYPES be read: name scopes such as system/*.rs.",
                    code="no-scope-granted",
                )
            return readable, tuple(each for each in self.types if each not in readable)
        wanted = self.types
        advertised = self.discover().scopes
        # Rights to read referenced types are requested only if they are advertised: a refusal costs requests.
        offered = scopes.granted_types(frozenset(advertised), POINTED_TO) if self.settings.hydrate else frozenset()
        likely = advertised or tuple(scopes.scope(each, "rs") for each in USUALLY_GRANTED)
        state = scopes.start_negotiation((*wanted, *sorted(offered - set(wanted))), likely)
        asked: tuple[str, ...] = ()
        while not state.settled:
            asked = state.scopes
            state = scopes.answered(state, self._ask(asked))
        if asked != state.scopes:
            self._token = None  # the last one was only for some of the types
        accepted = tuple(each for each in wanted if each in state.accepted)
        if not accepted:
            raise AuthError("The source refused every scope that was asked for.", code="no-scope-granted")
        self.granted = state.scopes
        return accepted, tuple(each for each in wanted if each not in accepted)

    def token(self, *, stale: str = "") -> str:
        """A currently valid token. ``stale`` is one that the server has just refused."""
        token = self._good(stale) or self._tokens.do("token", lambda: self._renewed(stale))
        return token.value

    def _good(self, stale: str) -> smart.Token | None:
        token = self._token
        is_good = token is not None and token.value != stale and token.fresh(self.requests.clock())
        return token if is_good else None

    def _renewed(self, stale: str) -> smart.Token:
        """A new token, unless another caller has already renewed it."""
        if not self.granted and not self._good(stale):
            self.negotiate()
        return self._good(stale) or self._renew()

    def _renew(self) -> smart.Token:
        answer = self._ask(self.granted)
        if isinstance(answer, smart.ScopeRefused) and self.settings.scopes:
            raise AuthError("The source refuses the scopes of PF_SCOPES.", code="no-scope-granted")
        if isinstance(answer, smart.ScopeRefused):
            # The scopes granted at the start are no longer granted: negotiate again.
            self.granted = ()
            self.negotiate()
            answer = self._ask(self.granted)
        if isinstance(answer, smart.ScopeRefused):
            raise AuthError("The source refuses the scopes that it granted before.", code="scopes-withdrawn")
        return answer

    def _ask(self, scopes: tuple[str, ...]) -> smart.Token | smart.ScopeRefused:
        """The answer to a token request. The token endpoint found by an earlier run may have changed."""
        before = self.discover()
        try:
            return self._asked(scopes)
        except (PermanentError, AuthError, TransientError):
            if self._fresh_discovery:
                raise
            self.discovery = None
            now = self.discover()
            if (now.token_endpoint, now.auth_methods) == (before.token_endpoint, before.auth_methods):
                raise
            return self._asked(scopes)

    def _asked(self, scopes: tuple[str, ...]) -> smart.Token | smart.ScopeRefused:
        discovery = self.discover()
        method = smart.auth_method(discovery, has_key=bool(self.settings.private_key))
        self.log("PFSmartClient", "Requesting access token from Practice Fusion...")
        name = "private_key JWT" if method == "private_key_jwt" else "client_secret"
        self.log("PFSmartClient", f"Using {name} authentication")

        def post() -> smart.Token | smart.ScopeRefused:
            # A new assertion for each attempt: its jti is used once.
            request = smart.token_request(
                method,
                scopes,
                client_id=self.settings.client_id,
                secret=self.settings.client_secret,
                assertion=self._assertion(discovery) if method == "private_key_jwt" else "",
            )
            return self._posted(discovery.token_endpoint, request)

        answer = self.requests.patiently(post)
        if isinstance(answer, smart.Token):
            self._token = answer
            self.log("PFSmartClient", "Successfully obtained access token")
        return answer

    def _posted(self, url: str, request: smart.TokenRequest) -> smart.Token | smart.ScopeRefused:
        headers = request.headers | {"Content-Type": "application/x-www-form-urlencoded"}
        reply = self.requests.once("POST", url, path="token", headers=headers, body=urlencode(request.form).encode())
        if reply.status >= 400:
            self.log("PFSmartClient", f"Token request failed: {smart.phrase(reply.status)}")
        asked = self.requests.asked_to_wait(reply)
        return smart.read_token(reply.status, reply.body, now=self.requests.clock(), retry_after=asked)

    def _assertion(self, discovery: smart.Discovery) -> str:
        now = self.requests.clock()
        claims = smart.assertion_claims(
            self.settings.client_id, discovery.token_endpoint, now=now, unique=self.unique()
        )
        headers = smart.assertion_headers(self.settings.key_id, self.settings.key_url)
        algorithm = _algorithm(self.settings.private_key, self.settings.algorithm)
        return jwt.encode(claims, self.settings.private_key, algorithm=algorithm, headers=headers)


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
