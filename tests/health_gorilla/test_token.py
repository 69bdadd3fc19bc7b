"""A bearer token of Health Gorilla: how it is requested, how long it is kept, and the result of each refusal."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs

import jwt
import pytest
import requests
import responses
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from bot_layer.errors import AuthError, ConfigError, PermanentError, TransientError
from bot_layer.health_gorilla.rules import settings as hg
from bot_layer.health_gorilla.rules.settings import ALGORITHMS, HealthGorilla
from bot_layer.health_gorilla.token import Token, TokenStore, assertion, request_token
from bot_layer.http.policy import RetryPolicy
from bot_layer.http.transport import Transport
from medplum_sandbox.health_gorilla import HealthGorillaSandbox, Switches
from medplum_sandbox.health_gorilla.switches import Grant

URL = "https://hg.example/oauth/token"
SECRET = "an invented secret, longer than thirty-two bytes"
NOW = 1_800_000_000.0
TRANSPORT = Transport("Health Gorilla", RetryPolicy(retries=1, backoff=0.0, longest_wait=0.0))
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def settings(**changes: str) -> HealthGorilla:
    given = {
        "TOKEN_URL": URL,
        "CLIENT_ID": "client-1",
        "CLIENT_SECRET": SECRET,
        "ISSUER": "https://clinic.example",
        "SUBJECT": "clinic.integration",
        "TENANT_ID": "t-1",
        **changes,
    }
    return hg.read({f"HEALTH_GORILLA_{name}": value for name, value in given.items()})


def pem(key: PrivateKey) -> str:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption()).decode()


@pytest.fixture(scope="module")
def keys() -> dict[str, PrivateKey]:
    """A fresh key for each algorithm that needs one."""
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return {
        "RS256": rsa_key,
        "RS384": rsa_key,
        "ES256": ec.generate_private_key(ec.SECP256R1()),
        "ES384": ec.generate_private_key(ec.SECP384R1()),
    }


def granted(**changes: Any) -> dict[str, Any]:
    return {"access_token": "token-1", "expires_in": 3600, "scope": "user/*.*", **changes}


def form(call: int = 0) -> dict[str, str]:
    """The form of a token request that was sent."""
    return {name: values[0] for name, values in parse_qs(str(responses.calls[call].request.body)).items()}


# The assertion


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_assertion_is_signed_with_each_algorithm(algorithm: str, keys: dict[str, PrivateKey]) -> None:
    """HS256 with the secret, the others with the private key; issuer, subject and audience; valid for five minutes."""
    key = keys.get(algorithm)
    given = settings(ALGORITHM=algorithm, PRIVATE_KEY=pem(key) if key else "", AUDIENCE="https://hg.example/aud")
    signed = assertion(given, NOW + 0.9)
    claims = jwt.decode(
        signed,
        key.public_key() if key else SECRET,
        algorithms=[algorithm],
        audience="https://hg.example/aud",
        options={"verify_exp": False, "verify_nbf": False, "verify_iat": False},
    )
    assert (claims["iss"], claims["sub"]) == ("https://clinic.example", "clinic.integration")
    assert (claims["iat"], claims["nbf"], claims["exp"] - claims["iat"]) == (NOW - 30, NOW - 30, 300)
    assert jwt.get_unverified_header(signed) == {"alg": algorithm, "typ": "JWT"}


def test_each_assertion_is_used_once() -> None:
    """jti differs from one to the next."""
    ids = {jwt.decode(assertion(settings(), NOW), options={"verify_signature": False})["jti"] for _ in range(20)}
    assert len(ids) == 20


def test_a_registered_key_is_named(keys: dict[str, PrivateKey]) -> None:
    """The header has kid if a key id was registered."""
    given = settings(ALGORITHM="ES384", PRIVATE_KEY=pem(keys["ES384"]), KEY_ID="key-7")
    assert jwt.get_unverified_header(assertion(given, NOW))["kid"] == "key-7"


def test_a_key_from_one_line_is_a_key(keys: dict[str, PrivateKey]) -> None:
    r"""Secrets that can't hold line ends write them as ``\n``."""
    given = settings(ALGORITHM="RS256", PRIVATE_KEY=pem(keys["RS256"]).replace("\n", "\\n"))
    assert jwt.get_unverified_header(assertion(given, NOW))["alg"] == "RS256"


@pytest.mark.parametrize("algorithm", ["RS256", "RS384", "ES256", "ES384"])
def test_a_key_that_cannot_sign_is_named_without_its_value(algorithm: str, keys: dict[str, PrivateKey]) -> None:
    """No PEM at all, and a key of the other kind."""
    other = keys["ES256" if algorithm.startswith("RS") else "RS256"]
    for key in ("no PEM but a secret", pem(other)):
        with pytest.raises(ConfigError, match="HEALTH_GORILLA_PRIVATE_KEY") as caught:
            assertion(settings(ALGORITHM=algorithm, PRIVATE_KEY=key), NOW)
        assert caught.value.code == "invalid-setting"
        assert "secret" not in str(caught.value)
        assert "BEGIN" not in str(caught.value)


# The request


@responses.activate
def test_jwt_bearer_sends_the_assertion_and_no_secret() -> None:
    """The grant that working integrations use."""
    responses.post(URL, json=granted())
    request_token(settings(), TRANSPORT, NOW)
    sent = form()
    assert jwt.decode(sent.pop("assertion"), options={"verify_signature": False})["exp"] == NOW + 270
    assert sent == {
        "client_id": "client-1",
        "scope": "user/*.* create_users",
        "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
    }


@responses.activate
def test_a_client_assertion_is_one_of_client_credentials() -> None:
    """RFC 7523: the assertion identifies the client."""
    responses.post(URL, json=granted())
    request_token(settings(GRANT="client-assertion"), TRANSPORT, NOW)
    sent = form()
    assert sent.pop("client_assertion").count(".") == 2
    assert sent == {
        "client_id": "client-1",
        "scope": "user/*.* create_users",
        "grant_type": "client_credentials",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
    }


@responses.activate
def test_a_client_secret_is_sent_as_it_is() -> None:
    """Without any assertion."""
    responses.post(URL, json=granted())
    request_token(settings(GRANT="client-secret", SCOPES="patient.read"), TRANSPORT, NOW)
    assert form() == {
        "client_id": "client-1",
        "scope": "patient.read",
        "grant_type": "client_credentials",
        "client_secret": SECRET,
    }


@pytest.mark.parametrize("subject", ["user", "client"])
@pytest.mark.parametrize("grant", ["jwt-bearer", "jwt-bearer-key", "client-assertion", "client-secret"])
def test_the_look_alike_accepts_each_grant(grant: Grant, subject: Any) -> None:
    """It verifies signature, algorithm, issuer, subject, audience and scopes."""
    with HealthGorillaSandbox(
        switches=Switches(grants=frozenset({grant}), subject=subject, nbf_required=True)
    ) as gorilla:
        given = hg.read(gorilla.settings())
        token = request_token(given, TRANSPORT, gorilla.state.clock())
        answer = requests.get(
            f"{gorilla.base_url}/PractitionerRole",
            params={"organization": gorilla.tenant_id},
            headers={"Authorization": f"Bearer {token.value}"},
            timeout=240,
        )
    assert token.scopes == {"user/*.*", "create_users"}
    assert answer.status_code == 200


# The answer


@responses.activate
@pytest.mark.parametrize(
    ("answer", "ends", "scopes"),
    [
        (granted(expires_in=60), NOW + 60, {"user/*.*"}),
        (granted(expires_in="soon"), NOW + 3600, {"user/*.*"}),
        ({"access_token": "token-1"}, NOW + 3600, {"user/*.*", "create_users"}),
    ],
)
def test_missing_members_of_the_answer_have_defaults(answer: Any, ends: float, scopes: set[str]) -> None:
    """An hour, and the requested scopes."""
    responses.post(URL, json=answer)
    assert request_token(settings(), TRANSPORT, NOW) == Token("token-1", frozenset(scopes), ends)


@responses.activate
@pytest.mark.parametrize("body", ["{}", "[]", '{"access_token": ""}', '{"access_token": 7}', "<html>", ""])
def test_an_answer_without_a_token_is_transient(body: str) -> None:
    """A gateway's page or an empty body: no one needs to act yet."""
    responses.post(URL, body=body)
    with pytest.raises(TransientError) as caught:
        request_token(settings(), TRANSPORT, NOW)
    assert (caught.value.code, caught.value.path) == ("unreadable-answer", "oauth/token")


@responses.activate
@pytest.mark.parametrize("status", [400, 401, 403])
@pytest.mark.parametrize("error", ["invalid_grant", "invalid_client", "invalid_scope", "unsupported_grant_type"])
def test_a_refusal_says_what_to_check(status: int, error: str) -> None:
    """The error contains OAuth's code, but neither the server's text nor the credentials."""
    responses.post(URL, json={"error": error, "error_description": f"improper secret {SECRET}"}, status=status)
    with pytest.raises(AuthError, match="issuer, subject, audience and scopes") as caught:
        request_token(settings(), TRANSPORT, NOW)
    assert caught.value.code == "health-gorilla-login-refused"
    assert error in str(caught.value)
    assert SECRET not in str(caught.value)


@responses.activate
@pytest.mark.parametrize("body", ["<html>", '{"error": {"secret": 1}}', '{"error": "clinic.integration is unknown"}'])
def test_a_refusal_with_other_words_is_a_refusal_all_the_same(body: str) -> None:
    """Only codes that OAuth defines are repeated."""
    responses.post(URL, body=body, status=400)
    with pytest.raises(AuthError) as caught:
        request_token(settings(), TRANSPORT, NOW)
    assert "(login)" in str(caught.value)
    assert "clinic.integration" not in str(caught.value)


@responses.activate
@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_token_endpoint_requires_no_action_yet(status: int) -> None:
    """429 is repeated, because nothing was done; 5xx is reported with the requested wait."""
    responses.post(URL, status=status, headers={"Retry-After": "7"})
    with pytest.raises(TransientError) as caught:
        request_token(settings(), TRANSPORT, NOW)
    assert (caught.value.status, caught.value.retry_after) == (status, 7.0)
    assert len(responses.calls) == (2 if status == 429 else 1)


@responses.activate
@pytest.mark.parametrize("status", [302, 404, 405])
def test_another_address_is_the_operators_matter(status: int) -> None:
    """Nothing that trying again would help."""
    responses.post(URL, status=status, headers={"Location": "https://elsewhere.example/"})
    with pytest.raises(PermanentError) as caught:
        request_token(settings(), TRANSPORT, NOW)
    assert (caught.value.status, len(responses.calls)) == (status, 1)


# Keeping it


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@responses.activate
def test_a_token_is_kept_until_a_minute_before_it_ends() -> None:
    """Then a new one is requested."""
    responses.post(URL, json=granted(access_token="first", expires_in=600))
    responses.post(URL, json=granted(access_token="second", expires_in=600))
    store, clock = TokenStore(), Clock()
    seen = []
    for later in (0, 539, 540, 541):
        clock.now = NOW + later
        seen.append(store.get(settings(), TRANSPORT, clock).value)
    assert seen == ["first", "first", "second", "second"]
    assert len(responses.calls) == 2


@responses.activate
def test_each_login_has_a_token_of_its_own() -> None:
    """Another scope or secret is another login."""
    responses.post(URL, json=granted(access_token="first"))
    responses.post(URL, json=granted(access_token="second"))
    store = TokenStore()
    tokens = [
        store.get(given, TRANSPORT, Clock()).value
        for given in (settings(), settings(SCOPES="patient.read"), settings())
    ]
    assert tokens == ["first", "second", "first"]


@responses.activate
def test_a_failure_is_not_kept() -> None:
    """The next call asks again."""
    responses.post(URL, status=503)
    responses.post(URL, json=granted())
    store = TokenStore()
    with pytest.raises(TransientError):
        store.get(settings(), TRANSPORT, Clock())
    assert store.get(settings(), TRANSPORT, Clock()).value == "token-1"


def test_threads_share_one_request() -> None:
    """Eight threads that start together ask once."""
    with HealthGorillaSandbox(clock=Clock()) as gorilla:
        store, given, together = TokenStore(), hg.read(gorilla.settings()), threading.Barrier(8)

        def get(_: int) -> str:
            together.wait(240)
            return store.get(given, TRANSPORT, Clock()).value

        with ThreadPoolExecutor(8) as pool:
            values = set(pool.map(get, range(8)))
        asked = [found.path for found in gorilla.requests]
    assert len(values) == 1
    assert asked == ["/oauth/token"]


@responses.activate
def test_a_token_that_was_refused_is_forgotten_once() -> None:
    """Unless another thread has replaced it: then the new one stays."""
    for value in ("first", "second", "third"):
        responses.post(URL, json=granted(access_token=value))
    store = TokenStore()

    def get() -> Token:
        return store.get(settings(), TRANSPORT, Clock())

    first = get()
    store.drop(settings(), first)
    store.drop(settings(), first)
    second = get()
    store.drop(settings(), first)
    assert (first.value, second.value, get().value) == ("first", "second", "second")


@responses.activate
def test_a_token_that_was_refused_meanwhile_is_not_stored_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that finds another's token does not store it, because a third one may have dropped it since."""
    for value in ("first", "second"):
        responses.post(URL, json=granted(access_token=value))
    store, read = TokenStore(), TokenStore._kept
    first = store.get(settings(), TRANSPORT, Clock())
    looks: list[Token | None] = []

    def kept(own: TokenStore, given: HealthGorilla, clock: Clock) -> Token | None:
        looks.append(read(own, given, clock) if looks else None)
        if len(looks) == 2:
            own.drop(given, first)
        return looks[-1]

    monkeypatch.setattr(TokenStore, "_kept", kept)
    assert store.get(settings(), TRANSPORT, Clock()) is first
    assert store.get(settings(), TRANSPORT, Clock()).value == "second"


def test_a_token_is_not_shown() -> None:
    """A log line with a token shows when it expires, but not the token itself."""
    assert "token-1" not in repr(Token("token-1", frozenset(), NOW))
