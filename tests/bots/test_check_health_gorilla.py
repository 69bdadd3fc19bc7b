"""check-health-gorilla: each thing that can be wrong is named, in words that say what to do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bot_layer.fhir.json import Json
from bot_layer.fhir.parameters import one, values
from bots.check_health_gorilla import handler
from bots.sync_practitioner import handler as sync
from medplum_sandbox.health_gorilla import HealthGorillaSandbox, Switches
from medplum_sandbox.health_gorilla import sandbox as hg_sandbox
from tests.bots.practice_world import HG, World, clinician, codes, named, staff, world

STEPS = ["settings", "token", "scopes", "tenant", "directory", "practitioner"]


@pytest.fixture
def here() -> Iterator[World]:
    with world() as made:
        yield made


def check(place: World, *entries: Json, **secrets: str) -> Json:
    return place.call(handler, *entries, secrets=secrets)


def found(answer: Json) -> dict[str, tuple[str, str]]:
    """Status and code of each step."""
    result: dict[str, tuple[str, str]] = {}
    for parts in values(answer, "check"):
        part = {entry["name"]: entry.get("valueCode") or entry.get("valueString") for entry in parts}
        result[part["name"]] = (part["status"], part["code"])
        assert part["text"].strip()
    return result


def test_all_well(here: World) -> None:
    """Every step passes for a clinician who is or could be enrolled; nothing is written on either side."""
    person = here.store(clinician())
    answer = check(here, named("practitioner", person))
    assert one(answer, "ok") is True
    assert list(found(answer)) == STEPS
    assert {status for status, _ in found(answer).values()} == {"passed"}
    assert here.gorilla.heard == []
    assert here.read(person)["meta"]["versionId"] == person["meta"]["versionId"]

    here.call(sync, named("practitioner", person))
    here.gorilla.heard.clear()
    answer = check(here, named("practitioner", person))
    assert "enrolled in the tenant" in str(answer)
    assert here.gorilla.heard == []


@pytest.mark.parametrize("shape", ["resource", "reference", "query", "parameters"])
def test_the_clinician_is_named_in_any_shape(here: World, shape: str) -> None:
    """However the call names a clinician, the clinician is looked up; a call without one skips that step."""
    person = here.store(clinician())
    reference = {"reference": f"Practitioner/{person['id']}"}
    given = {
        "resource": person,
        "reference": reference,
        "query": {"practitioner": reference["reference"]},
        "parameters": {"resourceType": "Parameters", "parameter": [named("practitioner", person)]},
    }[shape]
    assert found(handler(here.event(given)))["practitioner"] == ("passed", "practitioner-works")
    for nothing in (None, "", {}, {"resourceType": "Parameters"}):
        assert found(handler(here.event(nothing)))["practitioner"] == ("skipped", "check-skipped")


def test_a_missing_setting_is_a_finding(here: World) -> None:
    """All missing settings are named at once, and the other steps are skipped."""
    answer = check(here, HEALTH_GORILLA_CLIENT_ID="", HEALTH_GORILLA_TENANT_ID="")
    assert one(answer, "ok") is False
    assert found(answer)["settings"] == ("failed", "missing-settings")
    assert {status for name, (status, _) in found(answer).items() if name != "settings"} == {"skipped"}
    assert "HEALTH_GORILLA_CLIENT_ID, HEALTH_GORILLA_TENANT_ID" in str(answer)
    assert here.gorilla.requests == []


@pytest.mark.parametrize(
    ("setting", "value", "step", "code"),
    [
        ("CLIENT_SECRET", "wrong " * 8, "token", "health-gorilla-login-refused"),
        ("SUBJECT", "nobody", "token", "health-gorilla-login-refused"),
        ("TOKEN_URL", "http://127.0.0.1:9/oauth/token", "token", "service-unreachable"),
        ("TOKEN_URL", "http://elsewhere.example/oauth/token", "token", "unsafe-address"),
        ("SCOPES", "user/*.*", "scopes", "scope-not-asked-for"),
        ("SCOPES", "create_users", "tenant", "rights-missing"),
        ("TENANT_ID", "t-" + "0" * 24, "tenant", "tenant-unknown"),
    ],
)
def test_a_wrong_setting_is_named(here: World, setting: str, value: str, step: str, code: str) -> None:
    """Each wrong setting fails at its own step, and not before."""
    answer = check(here, **{f"HEALTH_GORILLA_{setting}": value})
    assert one(answer, "ok") is False
    assert found(answer)[step] == ("failed", code)
    before = STEPS[: STEPS.index(step)]
    assert all(found(answer)[name][0] == "passed" for name in before)


def test_a_scope_that_was_not_granted_is_a_doubt() -> None:
    """A server that grants less than requested causes a warning, not a failure: servers report scopes unreliably."""
    scopes = tuple(scope for scope in hg_sandbox.SCOPES if scope != "create_users")
    with world() as here, HealthGorillaSandbox(switches=Switches(unregistered_scope="dropped"), scopes=scopes) as less:
        settings = less.settings()
        answer = handler({**here.event(None), "secrets": settings})
        assert one(answer, "ok") is True
        assert found(answer)["scopes"] == ("warning", "scope-not-granted")


def test_a_tenant_without_phone_or_address_is_a_warning(here: World) -> None:
    """Laboratories refuse orders of a tenant that lacks phone or address, with words that name neither."""
    for key in ("telecom", "address"):
        here.gorilla.state.organizations[here.gorilla.tenant_id].pop(key)
    answer = check(here)
    assert found(answer)["tenant"] == ("warning", "tenant-incomplete")
    assert "no telecom, no address" in str(answer)
    assert one(answer, "ok") is True


@pytest.mark.parametrize(
    ("person", "code"),
    [
        (staff(), "npi-missing"),
        (clinician(active=False), "practitioner-inactive"),
        (clinician(name=[{"family": "Chimpanzee", "given": ["Joe"]}]), "family-name-mismatch"),
        (
            clinician(identifier=[{"system": "http://hl7.org/fhir/sid/us-npi", "value": "1000000004"}]),
            "npi-not-in-directory",
        ),
    ],
)
def test_the_reason_why_a_clinician_cannot_be_enrolled_is_reported(here: World, person: Json, code: str) -> None:
    """The rules of an enrollment, without the enrollment."""
    answer = check(here, named("practitioner", here.store(person)))
    assert found(answer)["practitioner"] == ("failed", code)
    assert code in codes(answer)


def test_an_id_that_differs_is_found(here: World) -> None:
    """The Health Gorilla id in Medplum is compared with Health Gorilla's own."""
    person = here.store(clinician())
    here.call(sync, named("practitioner", person))
    now = here.read(person)
    others = [entry for entry in now["identifier"] if entry.get("system") != HG]
    here.put({**now, "identifier": [*others, {"system": HG, "value": "ab" * 12}]})
    answer = check(here, named("practitioner", person))
    assert found(answer)["practitioner"] == ("failed", "health-gorilla-id-mismatch")


def test_an_id_that_differs_from_the_directorys_is_found(here: World) -> None:
    """The clinician is not enrolled yet: the check does not approve what an enrollment would refuse."""
    wrong = [*clinician()["identifier"], {"system": HG, "value": "0" * 24}]
    answer = check(here, named("practitioner", here.store(clinician(identifier=wrong))))
    assert found(answer)["practitioner"] == ("failed", "health-gorilla-id-mismatch")


def test_a_person_missing_in_medplum_is_not_reported_as_health_gorillas_fault(here: World) -> None:
    """A Practitioner that Medplum does not have fails the last step, in Medplum's name."""
    nobody = {
        "name": "practitioner",
        "valueReference": {"reference": "Practitioner/11111111-1111-4111-8111-111111111111"},
    }
    answer = check(here, nobody)
    assert found(answer)["practitioner"] == ("failed", "not-found")
    answer = handler({**here.event({"resourceType": "Parameters", "parameter": [nobody]}), "accessToken": "wrong"})
    assert found(answer)["practitioner"] == ("failed", "medplum-login-refused")
    assert "Ask Health Gorilla" not in str(answer)


def test_an_answer_with_a_fault_is_a_finding(here: World) -> None:
    """The step with the server error reports it."""
    here.gorilla.faults.add("server_error", path="Organization")
    assert found(check(here))["tenant"] == ("failed", "try-again-later")
    here.gorilla.faults.clear()
    here.gorilla.faults.add("server_error", status=422, path="Organization", times=1)
    assert found(check(here))["tenant"] == ("failed", "refused-by-service")
