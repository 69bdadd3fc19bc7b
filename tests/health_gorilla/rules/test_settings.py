"""Health Gorilla's settings as one value."""

from __future__ import annotations

import pytest

from bot_layer.errors import ConfigError
from bot_layer.health_gorilla.rules import settings as hg

LEAST = {
    "HEALTH_GORILLA_CLIENT_ID": "client",
    "HEALTH_GORILLA_CLIENT_SECRET": "s" * 40,
    "HEALTH_GORILLA_TENANT_ID": "Organization/t-1",
}


def test_the_defaults_are_those_of_working_integrations() -> None:
    """HS256 jwt-bearer at the sandbox; aud is the token endpoint; iss and sub fall back to the client id."""
    read = hg.read(LEAST)
    assert (read.grant, read.algorithm) == ("jwt-bearer", "HS256")
    assert read.token_url == read.audience == "https://sandbox.healthgorilla.com/oauth/token"
    assert read.base_url == "https://sandbox.healthgorilla.com/fhir/R4"
    assert read.issuer == read.subject == "client"
    assert (read.tenant_id, read.tenant, read.is_foreign_tenant) == ("t-1", "Organization/t-1", False)
    assert (read.invite, read.notify) == (False, False)


def test_each_setting_can_be_set() -> None:
    """Everything that the documents leave open can be set."""
    read = hg.read(
        {
            **LEAST,
            "HEALTH_GORILLA_BASE_URL": "https://h.example/fhir/R4/",
            "HEALTH_GORILLA_AUDIENCE": "aud",
            "HEALTH_GORILLA_ISSUER": "iss",
            "HEALTH_GORILLA_SUBJECT": "sub",
            "HEALTH_GORILLA_SUBTENANT_ID": "t-2",
            "HEALTH_GORILLA_INVITE": "true",
            "HEALTH_GORILLA_GRANT": "client-assertion",
            "HEALTH_GORILLA_ALGORITHM": "RS384",
            "HEALTH_GORILLA_PRIVATE_KEY": "line\\nline",
        }
    )
    assert (read.base_url, read.audience, read.issuer, read.subject) == (
        "https://h.example/fhir/R4",
        "aud",
        "iss",
        "sub",
    )
    assert (read.tenant, read.is_foreign_tenant, read.invite) == ("Organization/t-2", True, True)
    assert read.private_key == "line\nline"


def test_all_that_is_missing_is_named_at_once() -> None:
    """One error for the operator."""
    with pytest.raises(ConfigError) as caught:
        hg.read({})
    assert caught.value.missing == (
        "HEALTH_GORILLA_CLIENT_ID",
        "HEALTH_GORILLA_CLIENT_SECRET",
        "HEALTH_GORILLA_TENANT_ID",
    )


def test_a_key_is_needed_only_to_sign_with_it() -> None:
    """RS and ES need the private key in place of the secret; a bare client secret needs none."""
    keyed = {**LEAST, "HEALTH_GORILLA_ALGORITHM": "ES384"}
    with pytest.raises(ConfigError) as caught:
        hg.read(keyed)
    assert caught.value.missing == ("HEALTH_GORILLA_PRIVATE_KEY",)
    assert hg.read({**keyed, "HEALTH_GORILLA_GRANT": "client-secret"}).grant == "client-secret"


@pytest.mark.parametrize("setting", [{"HEALTH_GORILLA_GRANT": "password"}, {"HEALTH_GORILLA_ALGORITHM": "none"}])
def test_an_unknown_grant_or_algorithm_is_refused(setting: dict[str, str]) -> None:
    """The error lists what can be set."""
    with pytest.raises(ConfigError, match=r"jwt-bearer|HS256"):
        hg.read({**LEAST, **setting})


def test_no_secret_is_shown() -> None:
    """The value's representation shows neither the secret nor the key."""
    assert "s" * 40 not in repr(hg.read(LEAST))


def test_another_tenant_is_used_without_the_facility_of_this_one() -> None:
    """A call may name another tenant of the same login: Medplum's data do not belong to that one."""
    read = hg.read({**LEAST, "HEALTH_GORILLA_SSO_FACILITY_ID": "Organization/f-9"})
    assert read.in_tenant(None) is read.in_tenant("") is read.in_tenant("t-1") is read
    assert (read.sso_facility_id, read.is_configured_tenant) == ("f-9", True)
    other = read.in_tenant("t-2")
    assert (other.tenant, other.is_foreign_tenant, other.is_configured_tenant) == ("Organization/t-2", True, False)
    assert (other.sso_facility_id, other.home_tenant_id) == ("", "t-1")


def test_a_subtenant_is_the_configured_tenant() -> None:
    """It is foreign to the login, but Medplum keeps its ids."""
    read = hg.read({**LEAST, "HEALTH_GORILLA_SUBTENANT_ID": "t-2", "HEALTH_GORILLA_SYNC_EMAIL": "true"})
    assert (read.is_foreign_tenant, read.is_configured_tenant, read.sync_email) == (True, True, True)
