"""What an account shall have beside the name: which laboratories and numbers are told, and which are left out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bot_layer.fhir.identifiers import account_number, provider_number
from bot_layer.fhir.json import Json
from bot_layer.health_gorilla.rules import account_request
from bot_layer.health_gorilla.rules import settings as hg
from bot_layer.health_gorilla.rules.account_request import AccountRequest
from tests.health_gorilla.clinicians import NUMBER, practitioner, settings

LABORATORY: Json = {"resourceType": "Organization", "id": "lab", "identifier": [{"system": hg.SYSTEM, "value": "f-1"}]}
KNOWN = {"Organization/lab": LABORATORY}


def number(value: str | None = "A-1", assigner: Json | None = None, **changes: str) -> Json:
    made: Json = {"type": {"text": "account NUMBER"}, "assigner": assigner or {"reference": "Organization/lab"}}
    return {**made, **({} if value is None else {"value": value}), **changes}


def test_an_account_number_names_its_laboratory_as_health_gorilla_does() -> None:
    """By coding or by text, with the assigner's f- id; the same one twice is one."""
    coded = {**number(" A-1 "), "type": {"coding": [{"system": "http://hl7.org/fhir/v2/0203", "code": "AN"}]}}
    requested = account_request.account_numbers(practitioner(number(), coded), KNOWN)
    assert requested == AccountRequest([account_number("Organization/f-1", "A-1")])


@pytest.mark.parametrize(
    ("identifier", "code", "severity"),
    [
        (number(use="old"), "account-number-old", "information"),
        (number(None), "account-number-empty", "warning"),
        (number("  "), "account-number-empty", "warning"),
        (number(assigner={"reference": "Organization/unknown"}), "account-number-unresolved", "warning"),
        (number(assigner={"display": "Some laboratory"}), "account-number-unresolved", "warning"),
    ],
)
def test_an_account_number_that_is_left_out_is_told(identifier: Json, code: str, severity: str) -> None:
    """With its place, and without stopping the others."""
    requested = account_request.account_numbers(practitioner(identifier, number("A-2")), KNOWN)
    assert [found["value"] for found in requested.identifiers] == ["A-2"]
    assert [(issue.code, issue.severity) for issue in requested.issues] == [(code, severity)]
    assert requested.issues[0].expression in {(), ("Practitioner.identifier[1]",)}


def test_nobody_without_account_numbers_is_warned() -> None:
    """Other identifiers are no account numbers."""
    assert account_request.account_numbers(practitioner(), KNOWN) == AccountRequest([])
    assert account_request.account_numbers({}, KNOWN) == AccountRequest([])


def test_a_laboratory_is_known_by_its_resource_or_by_a_logical_reference() -> None:
    """Only an id with f- is one: a tenant or a location gives no account numbers."""
    logical = {"identifier": {"system": hg.SYSTEM, "value": "f-3"}}
    tenant = {"Organization/lab": {"identifier": [{"system": hg.SYSTEM, "value": "t-1"}]}}
    assert account_request.laboratory_of({"assigner": logical}, {}) == "Organization/f-3"
    assert account_request.laboratory_of(number(), KNOWN) == "Organization/f-1"
    assert account_request.laboratory_of(number(), tenant) is None
    assert account_request.laboratory_of({}, KNOWN) is None
    assert account_request.laboratory_of({"assigner": {"identifier": "x"}}, KNOWN) is None


def test_each_laboratory_is_asked_for_once() -> None:
    """And only what stands in Medplum: foreign addresses and other identifiers are not looked up."""
    foreign = number(assigner={"reference": "https://x.example/Organization/1"})
    other = {"system": "https://x.example", "value": "1", "assigner": {"reference": "Organization/other"}}
    given = practitioner(number(), number("A-2"), foreign, other)
    assert account_request.assigner_references(given) == ["Organization/lab"]
    assert account_request.assigner_references({}) == []


def test_single_sign_on_is_an_identifier_of_the_facility() -> None:
    """Medplum's id is the UUID; without a facility nothing is added."""
    requested = AccountRequest([NUMBER])
    assert account_request.with_single_sign_on(requested, practitioner(), settings()) is requested
    signed = account_request.with_single_sign_on(requested, practitioner(), settings(SSO_FACILITY_ID="f-9"))
    assert signed == replace(requested, identifiers=[NUMBER, provider_number("Organization/f-9", practitioner()["id"])])


@pytest.mark.parametrize("retired", [{"use": "old"}, {"value": " "}, {"assigner": {"reference": "Organization/1"}}])
def test_a_retired_or_foreign_provider_number_signs_nobody_on(retired: Json) -> None:
    """A number of use old, an empty one, and one that an organization gave are passed over."""
    person = practitioner(identifier=[{"type": {"text": "Provider Number"}, "value": "retired", **retired}])
    assert account_request.sign_on_value(person) == person["id"]
    own = {"type": {"text": "Provider Number"}, "value": " own "}
    assert account_request.sign_on_value({**person, "identifier": [*person["identifier"], own]}) == "own"
