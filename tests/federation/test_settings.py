"""Rules of the federated responder's settings: cautious by default, and all mistakes are reported at once."""

from __future__ import annotations

import json

import pytest

from bot_layer.errors import ConfigError
from bot_layer.federation.rules.document import Rules
from bot_layer.federation.rules.token import hash_secret
from bot_layer.federation.settings import Answering, read_answering, read_serving
from bot_layer.patient_registration.rules.disclosure import DisclosurePolicy

URL = "https://bots.clinic.example/federated"
CLIENTS = json.dumps([{"id": "hg", "secretHash": hash_secret("s", b"salt" * 4)}])
DOORS = {"FEDERATED_BASE_URL": f"{URL}/", "FEDERATED_CLIENTS": CLIENTS, "FEDERATED_SIGNING_KEY": "k" * 32}


def test_by_default_nothing_confidential_leaves_and_only_the_registered_are_known() -> None:
    """What widens access must be configured."""
    assert read_answering({}, "u") == Answering(Rules("u", "N", "N", show_level=False, oid=None))
    assert read_answering({}, "u").disclosure == DisclosurePolicy(opt_in=False, highest="N")


def test_each_choice_of_an_answer_is_a_setting() -> None:
    """An OID may be given as a URN."""
    chosen = {
        "FEDERATED_ORGANIZATION": "Organization/c-1",
        "FEDERATED_DOCUMENT_OID": "urn:oid:1.2.3",
        "FEDERATED_CONFIDENTIALITY": "R",
        "FEDERATED_UNLABELLED": "L",
        "FEDERATED_SHOW_LEVEL": "true",
        "FEDERATED_CCDA": "TRUE",
        "FEDERATED_ANSWER_UNREGISTERED": "true",
        "FEDERATED_OPT_IN": "yes",
        "FEDERATED_PATIENT_IDENTIFIER_SYSTEM": "urn:mrn",
    }
    rules, policy = Rules("u", "R", "L", True, "1.2.3"), DisclosurePolicy(True, "R")
    expected = Answering(rules, "urn:mrn", "Organization/c-1", True, True, policy)
    assert read_answering(chosen, "u") == expected


def test_the_route_has_an_address_and_short_lived_tokens() -> None:
    """The two addresses to give away follow from the one that is configured."""
    serving = read_serving(DOORS)
    assert (serving.fhir_url, serving.token_url) == (f"{URL}/fhir/R4", f"{URL}/oauth2/token")
    assert (serving.token_seconds, serving.attempts, serving.cache_seconds, serving.audiences) == (3600, 10, 0, ())
    assert serving.client("hg") == serving.clients[0]
    assert serving.client("other") is None
    assert "k" * 32 not in repr(serving)


def test_missing_settings_of_the_route_are_named_together() -> None:
    """One error for all that is missing."""
    with pytest.raises(ConfigError) as refused:
        read_serving({"FEDERATED_BASE_URL": " "})
    assert refused.value.missing == ("FEDERATED_BASE_URL", "FEDERATED_CLIENTS", "FEDERATED_SIGNING_KEY")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FEDERATED_BASE_URL", "clinic.example"),
        ("FEDERATED_BASE_URL", "http://bots.clinic.example/federated"),
        ("FEDERATED_BASE_URL", "http://10.0.0.7/federated"),
        ("FEDERATED_BASE_URL", "http://127.0.0.1.evil.example/federated"),
        ("FEDERATED_BASE_URL", "http://evil.example\\@127.0.0.1/"),
        ("FEDERATED_BASE_URL", "http://127.0.0.1@evil.example/"),
        ("FEDERATED_BASE_URL", "https://bots.clinic.example:port/"),
        ("FEDERATED_SIGNING_KEY", "k" * 31),
        ("FEDERATED_SIGNING_KEY", "k" * 20 + " " * 20),
        ("FEDERATED_TRUSTED_PROXIES", "proxy.clinic.example"),
        ("FEDERATED_TRUSTED_PROXIES", "10.0.0.0/33"),
        ("FEDERATED_SIGNING_KEY", "short"),
        ("FEDERATED_TOKEN_SECONDS", "an hour"),
        ("FEDERATED_TOKEN_SECONDS", "0"),
        ("FEDERATED_ATTEMPTS", "0"),
        ("FEDERATED_ATTEMPTS", "²"),
        ("FEDERATED_AUDIT_SECONDS", "0"),
        ("FEDERATED_CACHE_SECONDS", "-1"),
    ],
)
def test_an_unusable_setting_of_the_route_is_named(name: str, value: str) -> None:
    """A key that could be guessed, a number that is none."""
    with pytest.raises(ConfigError, match=name):
        read_serving({**DOORS, name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FEDERATED_ORGANIZATION", "c-1"),
        ("FEDERATED_DOCUMENT_OID", "one.two"),
        ("FEDERATED_CONFIDENTIALITY", "secret"),
        ("FEDERATED_UNLABELLED", "X"),
    ],
)
def test_an_unusable_choice_is_named(name: str, value: str) -> None:
    """An unknown level would let everything pass, or nothing."""
    with pytest.raises(ConfigError, match=name):
        read_answering({name: value}, "u")


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost", "127.8.8.8"])
def test_http_is_for_this_machine_alone(host: str) -> None:
    """A tunnel or proxy on the same machine offers https to the outside."""
    assert read_serving({**DOORS, "FEDERATED_BASE_URL": f"http://{host}:8765/federated"}).base_url.startswith("http:")


def test_proxies_are_addresses_and_networks() -> None:
    """Separated by spaces or commas."""
    proxies = read_serving({**DOORS, "FEDERATED_TRUSTED_PROXIES": "10.1.2.3, 192.168.0.0/16 ::1"}).trusted_proxies
    assert [str(each) for each in proxies] == ["10.1.2.3/32", "192.168.0.0/16", "::1/128"]
