"""The token endpoint of the Health Gorilla look-alike really verifies what it is given."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
import requests

from medplum_sandbox.health_gorilla import HealthGorillaSandbox, Switches
from tests.medplum_sandbox.health_gorilla_caller import Caller, bearer_form, claims

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
OTHER_SECRET = "another secret, which is longer than thirty-two bytes"


@pytest.fixture
def hg() -> Iterator[HealthGorillaSandbox]:
    with HealthGorillaSandbox() as running:
        yield running


def ask(hg: HealthGorillaSandbox, form: dict[str, str]) -> requests.Response:
    return requests.post(hg.token_url, data=form, timeout=240)


def assert_refused(answer: requests.Response, error: str) -> None:
    assert (answer.status_code, answer.json()["error"]) == (400, error), answer.text


def signed(hg: HealthGorillaSandbox, **changes: Any) -> str:
    return jwt.encode(claims(hg, **changes), hg.client_secret, "HS256")


def test_a_signed_assertion_gets_a_token(hg: HealthGorillaSandbox) -> None:
    """HS256 with the client secret; the answer carries type, life and scopes, and is not to be stored."""
    answer = ask(hg, bearer_form(hg, scope="user/*.* create_users"))
    body = answer.json()
    assert answer.status_code == 200
    assert (body["token_type"], body["expires_in"], body["scope"]) == ("Bearer", 3600, "user/*.* create_users")
    assert answer.headers["Cache-Control"] == "no-store"


WRONG: dict[str, tuple[str, dict[str, Any]]] = {
    "another issuer": ("invalid_client", {"iss": "https://other.example"}),
    "another subject": ("invalid_grant", {"sub": "nobody"}),
    "another audience": ("invalid_grant", {"aud": "https://other.example/oauth/token"}),
    "no audience": ("invalid_grant", {"aud": None}),
    "no exp": ("invalid_grant", {"exp": None}),
    "no iat": ("invalid_grant", {"iat": None}),
}
WRONG_TIMES = {  # seconds from the request on
    "past exp": {"exp": -120, "iat": -240},
    "iat to come": {"iat": 600, "exp": 900},
    "nbf to come": {"nbf": 600},
    "exp before iat": {"iat": 0, "exp": -1},
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_claim_is_refused(hg: HealthGorillaSandbox, case: str) -> None:
    """Issuer, subject and audience are checked."""
    error, changes = WRONG[case]
    assert_refused(ask(hg, bearer_form(hg, signed(hg, **changes))), error)


@pytest.mark.parametrize("case", WRONG_TIMES)
def test_a_wrong_time_is_refused(hg: HealthGorillaSandbox, case: str) -> None:
    """The times of the assertion are checked."""
    now = int(time.time())
    changes = {name: now + seconds for name, seconds in WRONG_TIMES[case].items()}
    assert_refused(ask(hg, bearer_form(hg, signed(hg, **changes))), "invalid_grant")


def test_a_wrong_subject_is_named_so(hg: HealthGorillaSandbox) -> None:
    """The words that the real one uses."""
    answer = ask(hg, bearer_form(hg, signed(hg, sub="nobody")))
    assert answer.json()["error_description"] == "Subject validation failed"


def test_signature_and_algorithm_are_checked(hg: HealthGorillaSandbox) -> None:
    """Another secret, another algorithm, none at all, and no assertion are refused."""
    for assertion in (
        jwt.encode(claims(hg), OTHER_SECRET, "HS256"),
        jwt.encode(claims(hg), hg.client_secret, "HS384"),
        jwt.encode(claims(hg), "", "none"),
        "no.token",
    ):
        assert_refused(ask(hg, bearer_form(hg, assertion)), "invalid_grant")


def test_a_long_life_is_accepted(hg: HealthGorillaSandbox) -> None:
    """Working integrations let the assertion live for days."""
    assert ask(hg, bearer_form(hg, signed(hg, exp=int(time.time()) + 7 * 86400))).status_code == 200


def test_the_client_is_checked(hg: HealthGorillaSandbox) -> None:
    """Another client_id is refused, a missing one too."""
    assert_refused(ask(hg, bearer_form(hg, client_id="other")), "invalid_client")
    form = bearer_form(hg)
    del form["client_id"]
    assert_refused(ask(hg, form), "invalid_client")


def test_client_id_may_be_left_out() -> None:
    """One document's example has none: a switch."""
    with HealthGorillaSandbox(switches=Switches(client_id_required=False)) as hg:
        form = bearer_form(hg)
        del form["client_id"]
        assert ask(hg, form).status_code == 200
        assert_refused(ask(hg, bearer_form(hg, client_id="other")), "invalid_client")


def test_nbf_may_be_needed() -> None:
    """One document requires it: a switch."""
    with HealthGorillaSandbox(switches=Switches(nbf_required=True)) as hg:
        assert_refused(ask(hg, bearer_form(hg, signed(hg, nbf=None))), "invalid_grant")
        assert ask(hg, bearer_form(hg)).status_code == 200


def test_issuer_and_subject_may_be_the_client() -> None:
    """The newer documents put the client id into both: a switch, and settings() follow it."""
    with HealthGorillaSandbox(switches=Switches(subject="client")) as hg:
        assert_refused(ask(hg, bearer_form(hg)), "invalid_client")
        its = signed(hg, iss=hg.client_id, sub=hg.client_id)
        assert ask(hg, bearer_form(hg, its)).status_code == 200
        settings = hg.settings()
        assert settings["HEALTH_GORILLA_ISSUER"] == settings["HEALTH_GORILLA_SUBJECT"] == hg.client_id


def test_a_scope_that_is_not_registered_fails_or_is_dropped() -> None:
    """The request fails, or with the switch is granted without it; a request without scopes gets all."""
    form = {"scope": "user/*.* nlp"}
    with HealthGorillaSandbox() as hg:
        assert_refused(ask(hg, bearer_form(hg, **form)), "invalid_scope")
        assert "create_users" in ask(hg, bearer_form(hg)).json()["scope"]
    with HealthGorillaSandbox(switches=Switches(unregistered_scope="dropped")) as hg:
        assert ask(hg, bearer_form(hg, **form)).json()["scope"] == "user/*.*"


def test_scopes_are_those_of_the_registration() -> None:
    """A client registered without create_users can't ask for it."""
    with HealthGorillaSandbox(scopes=("user/*.*",)) as hg:
        assert_refused(ask(hg, bearer_form(hg, scope="create_users")), "invalid_scope")


def test_other_grants_are_refused(hg: HealthGorillaSandbox) -> None:
    """An unknown grant, or one that the switches exclude, is unsupported; a body that is no form is invalid."""
    secret = {"grant_type": "client_credentials", "client_id": hg.client_id, "client_secret": hg.client_secret}
    assert_refused(ask(hg, secret), "unsupported_grant_type")
    assert_refused(ask(hg, {"grant_type": "password"}), "unsupported_grant_type")
    for body in ("{", '{"grant_type": "password"}'):
        kind = {"Content-Type": "application/json"}
        assert_refused(requests.post(hg.token_url, data=body, headers=kind, timeout=240), "invalid_request")
    assert_refused(requests.post(hg.token_url, data="x", timeout=240), "invalid_request")


def test_client_secret_grant() -> None:
    """client_credentials with the secret, as form or JSON; a wrong secret is refused."""
    with HealthGorillaSandbox(switches=Switches(grants=frozenset({"client-secret"}))) as hg:
        form = {"grant_type": "client_credentials", "client_id": hg.client_id, "client_secret": hg.client_secret}
        assert ask(hg, form).status_code == 200
        assert requests.post(hg.token_url, json=form, timeout=240).status_code == 200
        assert_refused(ask(hg, {**form, "client_secret": "wrong"}), "invalid_client")
        assert_refused(ask(hg, bearer_form(hg)), "unsupported_grant_type")
        assert hg.settings()["HEALTH_GORILLA_GRANT"] == "client-secret"
        assert "HEALTH_GORILLA_PRIVATE_KEY" not in hg.settings()


def test_private_key_grant() -> None:
    """client_credentials with an RS384 assertion of the registered key; issuer and subject are the client."""
    with HealthGorillaSandbox(switches=Switches(grants=frozenset({"client-assertion"}))) as hg:
        settings = hg.settings()
        its = claims(hg, iss=settings["HEALTH_GORILLA_ISSUER"], sub=settings["HEALTH_GORILLA_SUBJECT"])
        assertion = jwt.encode(its, settings["HEALTH_GORILLA_PRIVATE_KEY"], settings["HEALTH_GORILLA_ALGORITHM"])
        form = {
            "grant_type": "client_credentials",
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": assertion,
        }
        assert settings["HEALTH_GORILLA_GRANT"] == "client-assertion"
        assert ask(hg, form).status_code == 200
        assert_refused(ask(hg, {**form, "client_assertion_type": "other"}), "invalid_client")
        by_secret = jwt.encode(its, hg.client_secret, "HS256")
        assert_refused(ask(hg, {**form, "client_assertion": by_secret}), "invalid_grant")


def test_jwt_bearer_by_key() -> None:
    """The newer documents sign the jwt-bearer assertion with a private key: RS384 then, and the secret no more."""
    with HealthGorillaSandbox(switches=Switches(grants=frozenset({"jwt-bearer-key"}))) as hg:
        settings = hg.settings()
        assert (settings["HEALTH_GORILLA_GRANT"], settings["HEALTH_GORILLA_ALGORITHM"]) == ("jwt-bearer", "RS384")
        assertion = jwt.encode(claims(hg), settings["HEALTH_GORILLA_PRIVATE_KEY"], "RS384")
        assert ask(hg, bearer_form(hg, assertion)).status_code == 200
        assert_refused(ask(hg, bearer_form(hg)), "invalid_grant")


def test_tokens_end_in_time_and_before_it() -> None:
    """After expires_in by the look-alike's clock, or when a test ends it, a token gets 401 expired_token."""
    now = [time.time()]
    with HealthGorillaSandbox(clock=lambda: now[0]) as hg:
        caller = Caller(hg)
        now[0] += 3599
        assert caller.send("GET", "PractitionerRole").status_code == 200
        now[0] += 2
        answer = caller.send("GET", "PractitionerRole")
        assert (answer.status_code, answer.json()["error"]) == (401, "expired_token")
    with HealthGorillaSandbox() as hg:
        caller = Caller(hg)
        hg.expire_tokens()
        assert caller.send("GET", "PractitionerRole").json()["error"] == "expired_token"


def test_a_token_is_needed(hg: HealthGorillaSandbox) -> None:
    """None, a wrong one, or another scheme is 401 invalid_token."""
    headers: list[dict[str, str]] = [{}, {"Authorization": "Bearer x"}, {"Authorization": "Basic x"}]
    for one in headers:
        answer = requests.get(f"{hg.base_url}/PractitionerRole", headers=one, timeout=240)
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_token")


def test_a_token_can_be_looked_at_and_cancelled(hg: HealthGorillaSandbox) -> None:
    """/oauth/info says whether it lives; after /oauth/cancel it does not."""
    caller = Caller(hg)
    token = str(caller.session.headers["Authorization"]).removeprefix("Bearer ")
    origin = hg.token_url.removesuffix("/token")
    assert requests.get(f"{origin}/info", params={"access_token": token}, timeout=240).json()["active"] is True
    requests.get(f"{origin}/cancel", params={"token": token}, timeout=240)
    assert requests.get(f"{origin}/info", params={"access_token": token}, timeout=240).json() == {"active": False}
    assert caller.send("GET", "PractitionerRole").status_code == 401


def test_secrets_are_new_on_every_start_and_long_enough(hg: HealthGorillaSandbox) -> None:
    """At least 32 bytes, as HS256 asks (RFC 7518 3.2)."""
    assert len(hg.client_secret.encode()) >= 32
    with HealthGorillaSandbox() as other:
        assert other.client_secret != hg.client_secret
