"""Rules of the token endpoint: who gets a token, and how a refusal reads."""

from __future__ import annotations

import base64
import json
from urllib.parse import urlencode

import pytest

from bot_layer.errors import ConfigError
from bot_layer.federation.rules import token as tokens
from bot_layer.federation.rules.token import Asked, Client, Refused

CLIENT = Client("hg", tokens.hash_secret("s3cret+%", b"salt" * 4))
FORM = {"grant_type": "client_credentials", "client_id": "hg", "client_secret": "s3cret+%", "aud": "us", "scope": "a b"}


def form(**changes: str | None) -> bytes:
    """The form of a request; a change to None takes the field away."""
    return urlencode({name: value for name, value in {**FORM, **changes}.items() if value is not None}).encode()


def basic(name: str, secret: str) -> str:
    """A Basic header."""
    return "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()


def test_a_form_with_the_secret_is_understood() -> None:
    """As the federation guide shows it: everything in the body."""
    assert tokens.read_request(form(), None) == Asked("hg", "s3cret+%", ("a", "b"))
    assert tokens.read_request(form(extra="1", aud=None, scope=None), None) == Asked("hg", "s3cret+%")


def test_a_basic_header_is_understood() -> None:
    """Id and secret are form-encoded in it (RFC 6749, 2.3.1); the id may stand in the body too."""
    header = basic("hg", "s3cret%2B%25")
    assert tokens.read_request(form(client_secret=None), header) == Asked("hg", "s3cret+%", ("a", "b"))
    assert tokens.read_request(form(client_secret=None, client_id=None), header) == Asked("hg", "s3cret+%", ("a", "b"))


@pytest.mark.parametrize(
    ("body", "header", "status", "error"),
    [
        (b"", None, 400, "unsupported_grant_type"),
        (b"{}", None, 400, "invalid_request"),
        (b"\xff=1", None, 400, "invalid_request"),
        (b"&".join([b"a=1"] * 30), None, 400, "invalid_request"),
        (form() + b"&scope=c", None, 400, "invalid_request"),
        (form(grant_type="password"), None, 400, "unsupported_grant_type"),
        (form(client_id=None), None, 401, "invalid_client"),
        (form(client_secret=""), None, 401, "invalid_client"),
        (form(), basic("hg", "s3cret"), 400, "invalid_request"),
        (form(client_secret=None), basic("other", "x"), 401, "invalid_client"),
        (form(client_secret=None), "Bearer x", 401, "invalid_client"),
        (form(client_secret=None), "Basic %%%", 401, "invalid_client"),
        (form(client_secret=None), "Basic " + base64.b64encode(b"\xff\xfe").decode(), 401, "invalid_client"),
        (form(client_secret=None), "Basic " + base64.b64encode(b"nocolon").decode(), 401, "invalid_client"),
    ],
)
def test_other_requests_are_refused_in_oauths_words(body: bytes, header: str | None, status: int, error: str) -> None:
    """The error says what to change, and no more."""
    refused = tokens.read_request(body, header)
    assert isinstance(refused, Refused)
    assert (refused.status, refused.body()["error"]) == (status, error)


def test_the_audience_is_checked_where_it_is_configured() -> None:
    """A request for another server is not answered."""
    refused = tokens.read_request(form(), None, audiences=["them"])
    assert isinstance(refused, Refused)
    assert (refused.status, refused.error) == (400, "invalid_target")
    assert isinstance(tokens.read_request(form(), None, audiences=["us", "them"]), Asked)


def test_only_the_right_secret_of_a_known_client_passes() -> None:
    """The stored hash is not the secret, and an unknown client costs the same work."""
    assert tokens.is_secret(CLIENT, "s3cret+%")
    assert not tokens.is_secret(CLIENT, "s3cret")
    assert not tokens.is_secret(CLIENT, CLIENT.secret_hash)
    assert not tokens.is_secret(None, "s3cret+%")
    assert "s3cret" not in CLIENT.secret_hash + repr(CLIENT)


def test_clients_are_read_from_the_configuration() -> None:
    """Several are possible, each with its scopes."""
    text = json.dumps(
        [{"id": "hg", "secretHash": CLIENT.secret_hash}, {"id": "b", "secretHash": CLIENT.secret_hash, "scopes": ["x"]}]
    )
    read = tokens.read_clients(text)
    assert read[0] == CLIENT
    assert read[1].scopes == ("x",)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "7",
        '["hg"]',
        '[{"id": "hg"}]',
        '[{"id": "hg", "secretHash": "plain"}]',
        '[{"id": "hg", "secretHash": "md5$AA==$AA=="}]',
        '[{"id": "hg", "secretHash": "scrypt$%$AA=="}]',
        json.dumps([{"id": "hg", "secretHash": CLIENT.secret_hash}] * 2),
    ],
)
def test_an_unusable_configuration_is_said_at_the_start(text: str) -> None:
    """A plain secret is not a hash, and an id occurs only once."""
    with pytest.raises(ConfigError):
        tokens.read_clients(text)
