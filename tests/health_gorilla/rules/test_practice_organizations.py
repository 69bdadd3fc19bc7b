"""Medplum's data about a practice, read without a server."""

from __future__ import annotations

import pytest

from bot_layer.errors import InputError
from bot_layer.fhir import identifiers
from bot_layer.fhir.json import Json
from bot_layer.health_gorilla.rules import account_request
from bot_layer.health_gorilla.rules.account_request import PracticeOrganization
from bot_layer.health_gorilla.rules.clinician import LAB_ACCOUNT_EXTENSION, LOCATION_EXTENSION
from tests.health_gorilla.clinicians import NOW, read

HG = "https://www.healthgorilla.com"
PLACE = {"resourceType": "Organization", "id": "2", "identifier": [{"system": HG, "value": "tl-2"}]}
KNOWN = {
    "Organization/1": PracticeOrganization(("f-1",)),
    "Organization/2": PracticeOrganization.read(PLACE, NOW),
}


def parameters(*values: Json) -> Json:
    return {"resourceType": "Parameters", "parameter": [{"name": "location", **value} for value in values]}


def test_references_of_a_parameter() -> None:
    """References and whole resources count, each once, in order; other names do not."""
    given = parameters(
        {"valueReference": {"reference": "Organization/2"}},
        {"resource": PLACE},
        {"valueReference": {"reference": "Organization/1"}},
        {"name": "organization", "valueReference": {"reference": "Organization/9"}},
    )
    assert account_request.references(given, "location") == ["Organization/2", "Organization/1"]


@pytest.mark.parametrize(
    "value",
    [{"valueReference": {"reference": "Location/1"}}, {"valueReference": {}}, {"valueString": "Organization/1"}],
)
def test_references_to_something_else_are_refused(value: Json) -> None:
    """Anything but a reference to an Organization is the caller's mistake, named by its parameter."""
    with pytest.raises(InputError) as refused:
        account_request.references(parameters(value), "location")
    assert refused.value.code == "wrong-target"
    assert refused.value.expression == ("Parameters.parameter.where(name='location')",)


def test_locations_of_the_practitioner() -> None:
    """The extension may occur several times; others, and one without a reference, are left out."""
    practitioner = {
        "extension": [
            {"url": LOCATION_EXTENSION, "valueReference": {"reference": "Organization/2"}},
            {"url": LOCATION_EXTENSION, "valueReference": {"reference": "Organization/2"}},
            {"url": LOCATION_EXTENSION, "valueString": "Organization/3"},
            {"url": "https://clinic.example/other", "valueReference": {"reference": "Organization/4"}},
        ]
    }
    assert read(practitioner).locations == ("Organization/2",)
    assert read({}).locations == ()


@pytest.mark.parametrize("other", [{"reference": "Location/2"}, {"display": "North"}, {"identifier": {"value": "2"}}])
def test_a_location_that_can_not_be_known_is_refused_and_not_left_out(other: Json) -> None:
    """Sending only the others would replace the list in Health Gorilla; a location named by its id there is known."""
    logical = {"identifier": {"system": HG, "value": "tl-9"}}
    named = [{"reference": "Organization/2"}, logical, other]
    extensions = [{"url": LOCATION_EXTENSION, "valueReference": value} for value in named]
    found = read({"extension": extensions}).locations
    with pytest.raises(InputError, match="1 of 3 locations"):
        account_request.resolve_locations(found, KNOWN)
    assert account_request.resolve_locations(found[:2], KNOWN) == [
        "Organization/tl-2",
        "Organization/tl-9",
    ]


def test_health_gorilla_references() -> None:
    """An Organization is named by its id of the requested kind; Health Gorilla's own references are accepted."""
    assert account_request.health_gorilla_reference("Organization/2", KNOWN, "tl-") == "Organization/tl-2"
    assert account_request.health_gorilla_reference("Organization/1", KNOWN, "tl-") is None
    assert account_request.health_gorilla_reference("Organization/3", KNOWN, "tl-") is None
    assert account_request.health_gorilla_reference("Organization/tl-9", {}, "tl-") == "Organization/tl-9"
    assert account_request.resolve_locations(["Organization/2", "Organization/tl-9"], KNOWN) == [
        "Organization/tl-2",
        "Organization/tl-9",
    ]
    with pytest.raises(InputError, match="2 of 3 locations"):
        account_request.resolve_locations(["Organization/1", "Organization/2", "Organization/3"], KNOWN)
    assert account_request.resolve_tenant("Organization/t-7", {}) == "t-7"
    with pytest.raises(InputError) as refused:
        account_request.resolve_tenant("Organization/2", KNOWN)
    assert refused.value.code == "tenant-not-known"


def test_practice_numbers_by_the_types_of_their_parts() -> None:
    """Whatever the parts are called: a reference is the laboratory, text the number; or both are an Identifier."""
    laboratory = {"reference": "Organization/1"}
    practitioner = {
        "extension": [
            {"url": "https://clinic.example/other"},
            {
                "url": LAB_ACCOUNT_EXTENSION,
                "extension": [
                    {"url": "lab", "valueReference": laboratory},
                    {"url": "account", "valueString": "A"},
                    {"url": "since", "valueDate": "2026-01-01"},
                ],
            },
            {
                "url": LAB_ACCOUNT_EXTENSION,
                "extension": [{"url": "number", "valueIdentifier": {"value": "B", "assigner": laboratory}}],
            },
            {"url": LAB_ACCOUNT_EXTENSION},
        ]
    }
    numbers = read(practitioner).numbers
    assert [number.value for number in numbers] == ["A", "B", ""]
    assert account_request.assigners(numbers) == ["Organization/1"]
    requested = account_request.resolve_numbers(numbers, KNOWN)
    assert requested.identifiers == [identifiers.account_number("Organization/f-1", value) for value in ("A", "B")]
    assert [issue.code for issue in requested.issues] == ["account-number-empty"]
    unresolved = account_request.resolve_numbers(numbers[:1], {}).issues
    assert [(issue.code, issue.expression) for issue in unresolved] == [
        ("account-number-unresolved", ("Practitioner.extension",))
    ]


@pytest.mark.parametrize("over", [{"use": "old"}, {"period": {"end": "2026-05-31"}}])
def test_practice_numbers_that_are_over_or_have_a_logical_laboratory(over: Json) -> None:
    """The rules are those of a clinician's own: an ended one is left out, a laboratory may be named by its id."""
    number = {"type": {"text": "Account number"}, "value": "A", **over, "assigner": {"reference": "Organization/1"}}
    logical = {
        "type": {"text": "Account number"},
        "value": "B",
        "assigner": {"identifier": {"system": HG, "value": "f-1"}},
    }
    location = PracticeOrganization.read({"identifier": [*PLACE["identifier"], number, logical]}, NOW)
    requested = account_request.resolve_numbers(location.numbers, KNOWN)
    assert requested.identifiers == [identifiers.account_number("Organization/f-1", "B")]
    assert [(issue.code, issue.severity) for issue in requested.issues] == [("account-number-old", "information")]
    part = {"url": "number", "valueIdentifier": {key: value for key, value in number.items() if key != "type"}}
    own = read({"extension": [{"url": LAB_ACCOUNT_EXTENSION, "extension": [part]}]})
    assert account_request.resolve_numbers(own.numbers, KNOWN).identifiers == []


def test_the_ids_of_an_organization_that_are_over_are_not_its_ids() -> None:
    """A location that was closed and reopened in Health Gorilla has two ids, one of which is in force."""
    closed = {"system": HG, "value": "tl-1", "period": {"end": "2024-12-31"}}
    found = PracticeOrganization.read({"identifier": [closed, {"system": HG, "value": "tl-2"}]}, NOW)
    assert found.health_gorilla_ids == ("tl-2",)
