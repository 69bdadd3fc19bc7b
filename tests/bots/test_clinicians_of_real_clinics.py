"""Practitioners as imports and directories create them: NPIs by OID, periods, forms of references, professions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bot_layer.fhir.json import Json
from bots.create_staff_user import handler as create_staff_user
from bots.sync_location import handler as sync_location
from bots.sync_practitioner import handler
from medplum_sandbox.health_gorilla import npi
from medplum_sandbox.health_gorilla.wire import Answer
from tests.bots.practice_world import (
    HG,
    LOCATION,
    NPI,
    V2_0203,
    World,
    account_number,
    action,
    clinician,
    codes,
    differences,
    named,
    organization,
    world,
)

NPI_OID = "urn:oid:2.16.840.1.113883.4.6"
TAXONOMY = "http://nucc.org/provider-taxonomy"
ROLES = "http://terminology.hl7.org/CodeSystem/practitioner-role"
ADDRESS = {"line": ["7 Canopy Road"], "city": "Lumberton", "state": "TX", "postalCode": "77657"}


@pytest.fixture
def here() -> Iterator[World]:
    with world() as made:
        yield made


def sync(place: World, practitioner: Json, *entries: Json, **secrets: str) -> Json:
    return place.call(handler, named("practitioner", practitioner), *entries, secrets=secrets)


def sent_numbers(place: World) -> list[str]:
    (sent,) = place.gorilla.sent("POST")
    return [each["value"] for each in sent["contained"][0]["identifier"] if each["type"]["text"] == "Account number"]


def sent_roles(place: World) -> list[str]:
    (sent,) = place.gorilla.sent("POST")
    return [coding["code"] for coding in sent["code"][0]["coding"]]


# K21: an NPI in any of its forms


@pytest.mark.parametrize(
    "marked",
    [
        {"system": NPI_OID},
        {"system": "URN:OID:2.16.840.1.113883.4.6"},
        {"system": "2.16.840.1.113883.4.6"},
        {"system": "https://hl7.org/fhir/sid/us-npi"},
        {"system": f"{NPI}/"},
        {"type": {"coding": [{"system": "urn:oid:2.16.840.1.113883.18.108", "code": "NPI"}]}},
        {"type": {"coding": [{"code": "NPI"}]}},
        {"type": {"text": "NPI"}},
    ],
)
def test_an_npi_is_recognized_in_every_form(here: World, marked: Json) -> None:
    """Its owner is a clinician for both operations: enrolled by the one, refused by the other."""
    practitioner = here.store(clinician(identifier=[{**marked, "value": npi(1)}]))
    refused = here.call(create_staff_user, named("practitioner", practitioner))
    assert (action(refused), codes(refused)) == ("refused", ["npi-present"])
    assert action(sync(here, practitioner)) == "enrolled"


def test_one_npi_under_both_systems_is_one(here: World) -> None:
    """If a C-CDA import repeats the clinic's own entry, the NPI is not ambiguous, and it is sent once."""
    both = [{"system": system, "value": npi(2)} for system in (NPI, NPI_OID)]
    practitioner = here.store(clinician(2, identifier=both, name=[{"family": "Okonkwo-Reyes", "given": ["Amara"]}]))
    assert action(sync(here, practitioner)) == "enrolled"
    (sent,) = here.gorilla.sent("POST")
    assert [each["value"] for each in sent["contained"][0]["identifier"] if "system" in each] == [npi(2)]


# K11: periods


@pytest.mark.parametrize(
    ("period", "is_sent"),
    [
        ({"end": "2019"}, False),
        ({"start": "2099-01-01"}, False),
        ({"end": "2011-06-30T23:59:59Z"}, False),
        ({"start": "2001", "end": "2099-12-31"}, True),
        ({"start": "2001-05"}, True),
    ],
)
def test_an_account_number_is_sent_while_it_is_in_force(here: World, period: Json, is_sent: bool) -> None:
    """On the person, in the practice's extension and on the location; an omitted number is reported."""
    laboratory = here.store(organization(here.gorilla.labs[0], name="Laboratory"))
    own = {**account_number(laboratory, "OWN"), "period": period}
    of_location = {**account_number(laboratory, "LOCATION"), "period": period}
    office = here.store(organization(address=[ADDRESS]))
    here.call(sync_location, named("location", office))
    office = here.read(office)
    office = here.put({**office, "identifier": [*office["identifier"], of_location]})
    place = {"url": LOCATION, "valueReference": {"reference": f"Organization/{office['id']}"}}
    practitioner = here.store(clinician(identifier=[*clinician()["identifier"], own], extension=[place]))
    answer = sync(here, practitioner)
    assert action(answer) == "enrolled"
    assert sent_numbers(here) == (["OWN", "LOCATION"] if is_sent else [])
    assert codes(answer).count("account-number-old") == (0 if is_sent else 2)


def test_the_npi_of_a_former_life_is_no_npi(here: World) -> None:
    """Only one that ended: the person has none, and may have a staff account."""
    ended = {"system": NPI_OID, "value": npi(1), "period": {"end": "2020-02-29"}}
    practitioner = here.store(clinician(identifier=[ended]))
    assert codes(sync(here, practitioner)) == ["npi-missing"]
    assert action(here.call(create_staff_user, named("practitioner", practitioner))) == "enrolled"


# K13: forms of references


def absolute(here: World, resource: Json) -> str:
    return f"{here.medplum.base_url.rstrip('/')}/fhir/R4/Organization/{resource['id']}"


@pytest.mark.parametrize("form", ["relative", "of a version", "absolute", "absolute of a version", "contained"])
def test_a_laboratory_is_known_in_any_form_of_its_reference(here: World, form: str) -> None:
    """The number is sent with the laboratory's id, whatever form of reference Medplum has."""
    laboratory = here.store(organization(here.gorilla.labs[1], name="Laboratory"))
    assigners: dict[str, Any] = {
        "relative": {"reference": f"Organization/{laboratory['id']}"},
        "of a version": {"reference": f"Organization/{laboratory['id']}/_history/{laboratory['meta']['versionId']}"},
        "absolute": {"reference": absolute(here, laboratory)},
        "absolute of a version": {"reference": f"{absolute(here, laboratory)}/_history/1"},
        "contained": {"reference": "#lab"},
    }
    inside = {"resourceType": "Organization", "id": "lab", "identifier": laboratory["identifier"]}
    more: dict[str, Any] = {"contained": [inside]} if form == "contained" else {}
    number = {**account_number(laboratory, "77"), "assigner": assigners[form]}
    practitioner = here.store(clinician(identifier=[*clinician()["identifier"], number], **more))
    answer = sync(here, practitioner)
    assert (action(answer), codes(answer)) == ("enrolled", ["enrolled"])
    assert sent_numbers(here) == ["77"]


def test_a_laboratory_of_another_server_is_none_of_ours(here: World) -> None:
    """The same id at another address is another organization: the number is left out with a warning."""
    laboratory = here.store(organization(here.gorilla.labs[1], name="Laboratory"))
    foreign = {"reference": f"https://ehr.example/fhir/R4/Organization/{laboratory['id']}"}
    number = {**account_number(laboratory, "77"), "assigner": foreign}
    practitioner = here.store(clinician(identifier=[*clinician()["identifier"], number]))
    assert "account-number-unresolved" in codes(sync(here, practitioner))
    assert sent_numbers(here) == []


@pytest.mark.parametrize("by", ["extension", "parameter"])
def test_a_location_is_known_in_any_form_of_its_reference(here: World, by: str) -> None:
    """In the practitioner's extension and in the call."""
    office = here.store(organization(address=[ADDRESS]))
    here.call(sync_location, named("location", office))
    reference = {"reference": f"{absolute(here, office)}/_history/1"}
    extension = [{"url": LOCATION, "valueReference": reference}]
    more: dict[str, Any] = {"extension": extension} if by == "extension" else {}
    entries = [{"name": "location", "valueReference": reference}] if by == "parameter" else []
    practitioner = here.store(clinician(**more))
    assert action(sync(here, practitioner, *entries)) == "enrolled"
    (sent,) = here.gorilla.sent("POST", "PractitionerRole")
    assert sent["location"][0]["reference"].startswith("Organization/tl-")


# The practitioner role


def profession(here: World, practitioner: Json, *codings: Json, **changes: Any) -> Json:
    return here.store(
        {
            "resourceType": "PractitionerRole",
            "practitioner": {"reference": f"Practitioner/{practitioner['id']}"},
            "code": [{"coding": list(codings)}],
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("codings", "role"),
    [
        ([{"system": ROLES, "code": "nurse"}], "nurse"),
        ([{"system": "http://hl7.org/fhir/practitioner-role", "code": "pharmacist"}], "pharmacist"),
        ([{"system": TAXONOMY, "code": "363LF0000X"}], "nurse"),
        ([{"system": "urn:oid:2.16.840.1.113883.6.101", "code": "207Q00000X"}], "doctor"),
        ([{"system": TAXONOMY, "code": "163W00000X"}, {"system": ROLES, "code": "researcher"}], "researcher"),
        ([{"system": TAXONOMY, "code": "363AM0700X"}], "doctor"),
        ([{"system": "http://snomed.info/sct", "code": "224535009"}], "doctor"),
    ],
)
def test_a_new_account_has_the_profession_of_medplum(here: World, codings: list[Json], role: str) -> None:
    """By practitioner-role, else by a NUCC taxonomy code that means one of its codes, else doctor."""
    practitioner = here.store(clinician())
    profession(here, practitioner, *codings)
    assert action(sync(here, practitioner)) == "enrolled"
    assert sent_roles(here) == ["provider", role]


@pytest.mark.parametrize("over", [{"active": False}, {"period": {"end": "2021"}}])
def test_a_profession_that_is_over_does_not_count(here: World, over: Json) -> None:
    """A nurse who has become a physician."""
    practitioner = here.store(clinician())
    profession(here, practitioner, {"system": ROLES, "code": "nurse"}, **over)
    profession(here, practitioner, {"system": ROLES, "code": "doctor"})
    sync(here, practitioner)
    assert sent_roles(here) == ["provider", "doctor"]


def test_the_call_decides_before_medplum(here: World) -> None:
    """A code that FHIR does not have is sent as it is, with a warning."""
    practitioner = here.store(clinician())
    profession(here, practitioner, {"system": ROLES, "code": "nurse"})
    answer = sync(here, practitioner, {"name": "practitionerRole", "valueCode": "physicianAssistant"})
    assert (action(answer), "role-unknown" in codes(answer)) == ("enrolled", True)
    assert sent_roles(here) == ["provider", "physicianAssistant"]


def test_an_account_keeps_its_role_until_a_call_changes_it(here: World) -> None:
    """A PractitionerRole that appears later changes nothing; the parameter does, and once is enough."""
    practitioner = here.store(clinician())
    sync(here, practitioner)
    profession(here, practitioner, {"system": ROLES, "code": "nurse"})
    assert action(sync(here, practitioner)) == "unchanged"
    nurse = {"name": "practitionerRole", "valueCode": "nurse"}
    preview = sync(here, practitioner, nurse, {"name": "preview", "valueBoolean": True})
    assert differences(preview) == ["PractitionerRole.code: role replaced"]
    assert action(sync(here, practitioner, nurse)) == "updated"
    assert [coding["code"] for coding in here.account()["code"][0]["coding"]] == ["provider", "nurse"]
    assert action(sync(here, practitioner, nurse)) == "unchanged"


# NPIs of a test system


def test_the_check_digit_can_be_switched_off_for_a_test_system(here: World) -> None:
    """The guide's own sample has nine digits: with the setting, only the directory decides."""
    here.gorilla.directory.add(npi="123456789", family="Gorilla", given=["Joe"], suffix=["PA"])
    practitioner = here.store(clinician(identifier=[{"system": NPI, "value": "123456789"}]))
    assert codes(sync(here, practitioner)) == ["npi-invalid"]
    assert action(sync(here, practitioner, HEALTH_GORILLA_NPI_CHECK_DIGIT="false")) == "enrolled"


@pytest.mark.parametrize(("number", "code"), [("123456780", "npi-not-in-directory"), ("1|2", "npi-invalid")])
def test_without_the_check_digit_the_directory_decides(here: World, number: str, code: str) -> None:
    """A number that the directory lacks enrolls no one; a number with special meaning in a search is refused."""
    practitioner = here.store(clinician(identifier=[{"system": NPI, "value": number}]))
    assert codes(sync(here, practitioner, HEALTH_GORILLA_NPI_CHECK_DIGIT="false")) == [code]


def test_a_health_gorilla_id_that_ended_binds_nobody(here: World) -> None:
    """An id of an account that was closed years ago does not contradict the new one."""
    ended = {"system": HG, "value": "c91b6b63c0b2599e7850be7f", "period": {"end": "2018"}}
    practitioner = here.store(clinician(identifier=[*clinician()["identifier"], ended]))
    assert action(sync(here, practitioner)) == "enrolled"


def test_a_provider_number_without_an_assigner_in_force_signs_on(here: World) -> None:
    """An ended UUID makes way for the next one."""
    prn = {"type": {"coding": [{"system": V2_0203, "code": "PRN"}]}}
    ended, valid = {**prn, "value": "ended", "period": {"end": "2020"}}, {**prn, "value": "valid"}
    practitioner = here.store(clinician(identifier=[*clinician()["identifier"], ended, valid]))
    sync(here, practitioner, HEALTH_GORILLA_SSO_FACILITY_ID=here.gorilla.labs[0])
    (sent,) = here.gorilla.sent("POST")
    assert "valid" in [each["value"] for each in sent["contained"][0]["identifier"]]


# K4: only a searchset answers a search

OUTCOME: Json = {
    "resourceType": "OperationOutcome",
    "issue": [{"severity": "error", "code": "timeout", "diagnostics": "index not available"}],
}


@pytest.mark.parametrize("path", ["/PractitionerRole", "/Practitioner"])
@pytest.mark.parametrize(
    "answer",
    [
        OUTCOME,
        {"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": OUTCOME}]},
        {"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": OUTCOME, "search": {"mode": "match"}}]},
        {"resourceType": "Bundle", "type": "searchset", "total": 1},
        {"resourceType": "Bundle", "type": "searchset", "total": 1, "entry": [{"resource": {"resourceType": "Basic"}}]},
        {"resourceType": "Bundle", "type": "batch-response"},
        {"resourceType": "Parameters"},
    ],
)
def test_an_answer_that_is_no_searchset_is_not_taken_for_nobody(here: World, path: str, answer: Json) -> None:
    """No second account is created, and no one is reported as missing from the directory: the bot tries again later."""
    practitioner = here.store(clinician())
    here.gorilla.instead["GET", path] = Answer(200, answer)
    found = sync(here, practitioner)
    assert (action(found), codes(found)) == ("failed", ["unreadable-answer"])
    assert here.gorilla.heard == []
