"""The data of an account besides the name: which laboratories and numbers are sent, and which are left out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bot_layer.fhir.identifiers import account_number, provider_number
from bot_layer.fhir.json import Json
from bot_layer.health_gorilla.rules import account_request
from bot_layer.health_gorilla.rules import settings as hg
from bot_layer.health_gorilla.rules.account_request import AccountRequest, PracticeOrganization
from bot_layer.health_gorilla.rules.clinician import AccountNumber
from tests.health_gorilla.clinicians import NUMBER, clinician, practitioner, read, settings

KNOWN = {"Organization/lab": PracticeOrganization(("f-1",))}


def number(value: str | None = "A-1", assigner: Json | None = None, **changes: object) -> Json:
    made: Json = {"type": {"text": "account NUMBER"}, "assigner": assigner or {"reference": "Organization/lab"}}
    return {**made, **({} if value is None else {"value": value}), **changes}


def resolved(*identifiers: Json, **changes: object) -> AccountRequest:
    return account_request.resolve_numbers(read({**practitioner(*identifiers), **changes}).numbers, KNOWN)


def test_an_account_number_names_its_laboratory_as_health_gorilla_does() -> None:
    """By coding or by text, with the assigner's f- id; the same one twice is one."""
    coded = {**number(" A-1 "), "type": {"coding": [{"system": "http://hl7.org/fhir/v2/0203", "code": "AN"}]}}
    assert resolved(number(), coded) == AccountRequest([account_number("Organization/f-1", "A-1")])


@pytest.mark.parametrize(
    ("identifier", "code", "severity"),
    [
        (number(use="old"), "account-number-old", "information"),
        (number(period={"end": "2025"}), "account-number-old", "information"),
        (number(period={"start": "2026-06-02"}), "account-number-old", "information"),
        (number(None), "account-number-empty", "warning"),
        (number("  "), "account-number-empty", "warning"),
        (number(assigner={"reference": "Organization/unknown"}), "account-number-unresolved", "warning"),
        (number(assigner={"reference": "https://x.example/Organization/lab"}), "account-number-unresolved", "warning"),
        (number(assigner={"display": "Some laboratory"}), "account-number-unresolved", "warning"),
    ],
)
def test_an_account_number_that_is_left_out_is_reported(identifier: Json, code: str, severity: str) -> None:
    """With its place, and without stopping the others."""
    requested = resolved(identifier, number("A-2"))
    assert [found["value"] for found in requested.identifiers] == ["A-2"]
    assert [(issue.code, issue.severity) for issue in requested.issues] == [(code, severity)]
    assert requested.issues[0].expression in {(), ("Practitioner.identifier[1]",)}


@pytest.mark.parametrize("period", [{"end": "2026-06"}, {"start": "2026-06-01", "end": "2027"}, {"end": "soon"}, {}])
def test_an_account_number_within_its_period_is_sent(period: Json) -> None:
    """The last day, month or year of a period belongs to it; a bound that is no date says nothing."""
    requested = resolved(number(period=period))
    assert ([found["value"] for found in requested.identifiers], requested.issues) == (["A-1"], ())


def test_nobody_without_account_numbers_is_warned() -> None:
    """Other identifiers are no account numbers."""
    assert resolved() == AccountRequest([])
    assert account_request.resolve_numbers(read({}).numbers, KNOWN) == AccountRequest([])


def test_a_laboratory_is_known_by_its_resource_or_by_a_logical_reference() -> None:
    """Only an id with f- is one: a tenant or a location assigns no account numbers."""
    tenant = {"Organization/lab": PracticeOrganization(("t-1",))}
    by_reference = AccountNumber("A-1", "", assigner="Organization/lab")
    assert account_request.laboratory_of(AccountNumber("A-1", "", laboratory="f-3"), {}) == "Organization/f-3"
    assert account_request.laboratory_of(by_reference, KNOWN) == "Organization/f-1"
    assert account_request.laboratory_of(by_reference, tenant) is None
    assert account_request.laboratory_of(AccountNumber("A-1", ""), KNOWN) is None


@pytest.mark.parametrize(
    ("assigner", "laboratory"),
    [
        ({"identifier": {"system": hg.SYSTEM, "value": "f-3"}}, "f-3"),
        ({"reference": "#lab"}, "f-4"),
        ({"identifier": {"system": hg.SYSTEM, "value": "t-3"}}, None),
        ({"identifier": "x"}, None),
        ({"reference": "#other"}, None),
    ],
)
def test_an_identifier_may_name_the_laboratory_itself(assigner: Json, laboratory: str | None) -> None:
    """By a logical reference, or by an Organization that the Practitioner contains."""
    contained = [{"resourceType": "Organization", "id": "lab", "identifier": [{"system": hg.SYSTEM, "value": "f-4"}]}]
    (found,) = read({**practitioner(number(assigner=assigner)), "contained": contained}).numbers
    assert found.laboratory == laboratory


def test_each_laboratory_is_looked_up_once() -> None:
    """Only Medplum's own are looked up: foreign addresses and other identifiers are not."""
    foreign = number(assigner={"reference": "https://x.example/Organization/1"})
    other = {"system": "https://x.example", "value": "1", "assigner": {"reference": "Organization/other"}}
    given = clinician(number(), number("A-2"), foreign, other)
    assert account_request.assigners(given.numbers) == ["Organization/lab"]
    assert account_request.assigners(()) == []


def test_single_sign_on_is_an_identifier_of_the_facility() -> None:
    """Medplum's id is the UUID; without a facility nothing is added."""
    requested = AccountRequest([NUMBER])
    assert account_request.with_single_sign_on(requested, clinician(), settings()) is requested
    signed = account_request.with_single_sign_on(requested, clinician(), settings(SSO_FACILITY_ID="f-9"))
    own = provider_number("Organization/f-9", practitioner()["id"])
    assert signed == replace(requested, identifiers=[NUMBER, own])


@pytest.mark.parametrize(
    "retired", [{"use": "old"}, {"period": {"end": "2020-01-31"}}, {"value": " "}, {"assigner": {"reference": "x"}}]
)
def test_a_retired_or_foreign_provider_number_allows_no_sign_on(retired: Json) -> None:
    """A number that is not in force, is empty, or was assigned by an organization is ignored."""
    person = practitioner(identifier=[{"type": {"text": "Provider Number"}, "value": "retired", **retired}])
    assert read(person).sign_on == person["id"]
    own = {"type": {"text": "Provider Number"}, "value": " own "}
    assert read({**person, "identifier": [*person["identifier"], own]}).sign_on == "own"
