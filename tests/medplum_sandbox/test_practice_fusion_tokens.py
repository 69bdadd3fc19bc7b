"""Who may log in at the bulk data source, and for what."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from medplum_sandbox.practice_fusion import PracticeFusionSandbox, Switches, generate
from tests.medplum_sandbox.pf_caller import Caller, Clock, scopes

ODD_SCOPE = {"subcode": "Unauthorized", "message": "client does not have permissions to requested scope"}


@pytest.fixture
def exact() -> Iterator[Caller]:
    with PracticeFusionSandbox(generate(1, 1), clock=Clock()) as box:
        caller = Caller(box)
        caller.register()
        box.authorize_app()
        yield caller


@pytest.fixture
def general() -> Iterator[PracticeFusionSandbox]:
    with PracticeFusionSandbox(generate(1, 1), switches=Switches.general(), clock=Clock()) as box:
        yield box


def secret_form(box: PracticeFusionSandbox, scope: str = "system/Patient.rs") -> dict[str, str]:
    return {
        "grant_type": "client_credentials",
        "scope": scope,
        "client_id": box.client_id,
        "client_secret": box.client_secret,
    }


def test_a_signed_assertion_gets_a_token(exact: Caller) -> None:
    """An assertion signed with the registered key gets a token for an hour, with the scopes that were asked."""
    answer = exact.ask_token(scopes(("Patient", "Observation")))
    assert answer.status_code == 200
    assert answer.json()["expires_in"] == 3600
    assert answer.json()["scope"] == "system/Patient.rs system/Observation.rs"


def test_the_practice_must_press_authorize_app() -> None:
    """Until the practice has authorized the application, the token endpoint says so in its own text."""
    with PracticeFusionSandbox(generate(1, 1)) as box:
        caller = Caller(box)
        caller.register()
        refused = caller.ask_token("system/Patient.rs")
        assert refused.status_code == 401
        assert refused.json()["message"] == "practice has not granted access to system application"
        assert "error" not in refused.json()
        box.authorize_app()
        assert caller.ask_token("system/Patient.rs").status_code == 200


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"kid": None}, id="no kid"),
        pytest.param({"kid": "another"}, id="unknown kid"),
        pytest.param({"aud": "https://another.example.org/token"}, id="another audience"),
        pytest.param({"iss": "somebody"}, id="another issuer"),
        pytest.param({"sub": "somebody"}, id="another subject"),
        pytest.param({"exp": None}, id="no end"),
        pytest.param({"jti": None}, id="no jti"),
        pytest.param({"key": ec.generate_private_key(ec.SECP384R1())}, id="another key"),
        pytest.param({"key": ec.generate_private_key(ec.SECP256R1()), "alg": "ES256"}, id="weak curve"),
        pytest.param({"key": rsa.generate_private_key(65537, 2048), "alg": "RS384"}, id="another algorithm"),
    ],
)
def test_a_bad_assertion_is_refused(exact: Caller, changes: dict[str, Any]) -> None:
    """kid, audience, issuer, subject, end, jti, key and algorithm must all be right."""
    answer = exact.ask_token("system/Patient.rs", **changes)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


@pytest.mark.parametrize(("life", "status"), [(300, 200), (301, 401), (0, 401), (-1, 401)])
def test_an_assertion_lives_five_minutes_at_most(exact: Caller, life: int, status: int) -> None:
    """exp is in the future, by at most 300 seconds."""
    assert exact.ask_token("system/Patient.rs", exp=exact.box.clock() + life).status_code == status


def test_an_assertion_is_used_once(exact: Caller) -> None:
    """The same jti is refused the second time."""
    assert exact.ask_token("system/Patient.rs", jti="once").status_code == 200
    assert exact.ask_token("system/Patient.rs", jti="once").status_code == 401


def test_an_rs384_key_works_too() -> None:
    """RS384 is accepted if the registered key says so."""
    with PracticeFusionSandbox(generate(1, 1)) as box:
        box.authorize_app()
        caller = Caller(box, key=rsa.generate_private_key(65537, 2048))  # type: ignore[arg-type]  # any private key
        pem = caller.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        box.register_public_key(pem.decode(), "rsa", "RS384")
        assert caller.ask_token("system/Patient.rs", kid="rsa", alg="RS384").status_code == 200


def test_the_assertion_type_must_be_named(exact: Caller) -> None:
    """client_assertion_type is required."""
    form = {"grant_type": "client_credentials", "client_assertion": exact.assertion(), "scope": "system/Patient.rs"}
    assert requests.post(exact.box.token_url, data=form, timeout=240).status_code == 401


@pytest.mark.parametrize(
    "scope",
    [
        pytest.param("system/Patient.read", id="v1 syntax"),
        pytest.param("system/Patient.rs system/Patient.read", id="one of two"),
        pytest.param("system/Medication.rs", id="not requestable"),
        pytest.param("system/*.rs", id="wildcard"),
        pytest.param("user/Patient.rs", id="another context"),
        pytest.param("", id="none"),
    ],
)
def test_one_refused_scope_fails_the_request_with_an_odd_body(exact: Caller, scope: str) -> None:
    """Only system scopes in v2 syntax for the 22 types are granted; the refusal is not OAuth's invalid_scope."""
    answer = exact.ask_token(scope)
    assert answer.status_code == 401
    assert answer.json() == ODD_SCOPE


def test_practice_fusion_takes_no_secret(exact: Caller) -> None:
    """Although the discovery document names symmetric clients, a secret gets no token."""
    answer = requests.post(exact.box.token_url, data=secret_form(exact.box), timeout=240)
    assert answer.json()["error"] == "invalid_client"


def test_another_grant_type_is_refused(general: PracticeFusionSandbox) -> None:
    """Only client_credentials is offered."""
    form = {**secret_form(general), "grant_type": "password"}
    assert requests.post(general.token_url, data=form, timeout=240).json() == {"error": "unsupported_grant_type"}


def test_a_secret_in_the_header_or_in_the_body(general: PracticeFusionSandbox) -> None:
    """The general shape takes Basic and the body, and refuses a wrong secret both ways."""
    form = {"grant_type": "client_credentials", "scope": "system/Patient.rs"}
    right, wrong = (general.client_id, general.client_secret), (general.client_id, "wrong")
    assert requests.post(general.token_url, data=form, auth=right, timeout=240).status_code == 200
    assert requests.post(general.token_url, data=form, auth=wrong, timeout=240).status_code == 401
    assert requests.post(general.token_url, data=secret_form(general), timeout=240).status_code == 200
    assert (
        requests.post(
            general.token_url, data={**secret_form(general), "client_secret": "wrong"}, timeout=240
        ).status_code
        == 401
    )


def test_a_broken_basic_header_is_refused(general: PracticeFusionSandbox) -> None:
    """A header that is not base64 of a pair gets a refusal, not a server error."""
    form = {"grant_type": "client_credentials", "scope": "system/Patient.rs"}
    answer = requests.post(general.token_url, data=form, headers={"Authorization": "Basic ***"}, timeout=240)
    assert answer.status_code == 401


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post", "private_key_jwt"])
def test_token_methods_by_switch(method: str) -> None:
    """Each of the three ways to log in can be the only one."""
    switches = Switches.general(token_methods=frozenset({method}))
    with PracticeFusionSandbox(generate(1, 1), switches=switches) as box:
        caller = Caller(box)
        caller.register()
        form = {"grant_type": "client_credentials", "scope": "system/Patient.rs"}
        auth = (box.client_id, box.client_secret)
        statuses = {
            "client_secret_basic": requests.post(box.token_url, data=form, auth=auth, timeout=240).status_code,
            "client_secret_post": requests.post(box.token_url, data=secret_form(box), timeout=240).status_code,
            "private_key_jwt": caller.ask_token("system/Patient.rs").status_code,
        }
        assert statuses == {name: 200 if name == method else 401 for name in statuses}


def test_scopes_of_both_versions_in_the_general_shape(general: PracticeFusionSandbox) -> None:
    """v1, v2, the wildcard and Group are granted; an unknown type is OAuth's invalid_scope."""
    for scope in ("system/Patient.read", "system/Medication.rs", "system/*.rs", "system/Group.rs"):
        assert requests.post(general.token_url, data=secret_form(general, scope), timeout=240).status_code == 200
    refused = requests.post(general.token_url, data=secret_form(general, "system/Nothing.rs"), timeout=240)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_scope")


def test_scopes_may_be_narrowed() -> None:
    """By switch, the refused scope is left out of the grant instead of failing the request."""
    with PracticeFusionSandbox(generate(1, 1), switches=Switches.general(narrows_scopes=True)) as box:
        answer = requests.post(box.token_url, data=secret_form(box, "system/Patient.rs system/Nothing.rs"), timeout=240)
        assert answer.json()["scope"] == "system/Patient.rs"


def test_a_token_ends(exact: Caller) -> None:
    """After its life, a token gets 401; a missing or unknown one too."""
    exact.log_in()
    assert exact.get("Patient").status_code == 200
    exact.box.clock.time += 3600  # type: ignore[attr-defined]  # the test's own clock
    assert exact.get("Patient").status_code == 401
    assert exact.get("Patient", Authorization="Bearer unknown").status_code == 401
    assert requests.get(f"{exact.box.base_url}/Patient", timeout=240).status_code == 401


def test_tokens_can_be_short_lived_or_revoked() -> None:
    """token_seconds is the life; expire_tokens ends all at once."""
    with PracticeFusionSandbox(generate(1, 1), switches=Switches.general(token_seconds=5), clock=Clock()) as box:
        caller = Caller(box)
        caller.log_in()
        box.clock.time += 4  # type: ignore[attr-defined]  # the test's own clock
        assert caller.get("Patient").status_code == 200
        box.expire_tokens()
        assert caller.get("Patient").status_code == 401
