"""What Medplum holds of a practice, read without a server."""

from __future__ import annotations

import pytest

from bot_layer.errors import InputError
from bot_layer.fhir import identifiers
from bot_layer.fhir.json import Json
from bot_layer.health_gorilla.rules import practice_organizations as practice

HG = "https://www.healthgorilla.com"
LAB = {"resourceType": "Organization", "id": "1", "identifier": [{"system": HG, "value": "f-1"}]}
PLACE = {"resourceType": "Organization", "id": "2", "identifier": [{"system": HG, "value": "tl-2"}]}


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
    assert practice.references(given, "location") == ["Organization/2", "Organization/1"]


@pytest.mark.parametrize(
    "value",
    [{"valueReference": {"reference": "Location/1"}}, {"valueReference": {}}, {"valueString": "Organization/1"}],
)
def test_references_to_something_else_are_refused(value: Json) -> None:
    """Anything but a reference to an Organization is the caller's mistake, named by its parameter."""
    with pytest.raises(InputError) as refused:
        practice.references(parameters(value), "location")
    assert refused.value.code == "wrong-target"
    assert refused.value.expression == ("Parameters.parameter.where(name='location')",)


def test_locations_of_the_practitioner() -> None:
    """The extension may stand several times; others, and one that refers to nothing, are left out."""
    practitioner = {
        "extension": [
            {"url": practice.LOCATION_EXTENSION, "valueReference": {"reference": "Organization/2"}},
            {"url": practice.LOCATION_EXTENSION, "valueReference": {"reference": "Organization/2"}},
            {"url": practice.LOCATION_EXTENSION, "valueString": "Organization/3"},
            {"url": "https://clinic.example/other", "valueReference": {"reference": "Organization/4"}},
        ]
    }
    assert practice.locations_of(practitioner) == ["Organization/2"]
    assert practice.locations_of({}) == []


@pytest.mark.parametrize("other", [{"reference": "Location/2"}, {"display": "North"}, {"identifier": {"value": "2"}}])
def test_a_location_that_can_not_be_known_is_refused_and_not_left_out(other: Json) -> None:
    """The others alone would replace the list in Health Gorilla; one that is named by its id there is known."""
    logical = {"identifier": {"system": HG, "value": "tl-9"}}
    named = [{"reference": "Organization/2"}, logical, other]
    extensions = [{"url": practice.LOCATION_EXTENSION, "valueReference": value} for value in named]
    found = practice.locations_of({"extension": extensions})
    with pytest.raises(InputError, match="1 of 3 locations"):
        practice.resolve_locations(found, {"Organization/2": PLACE})
    assert practice.resolve_locations(found[:2], {"Organization/2": PLACE}) == [
        "Organization/tl-2",
        "Organization/tl-9",
    ]


def test_health_gorilla_references() -> None:
    """An Organization is named by the id of the kind that is asked for; Health Gorilla's own references pass."""
    known = {"Organization/1": LAB, "Organization/2": PLACE}
    assert practice.health_gorilla_reference("Organization/2", known, "tl-") == "Organization/tl-2"
    assert practice.health_gorilla_reference("Organization/1", known, "tl-") is None
    assert practice.health_gorilla_reference("Organization/3", known, "tl-") is None
    assert practice.health_gorilla_reference("Organization/tl-9", {}, "tl-") == "Organization/tl-9"
    assert practice.resolve_locations(["Organization/2", "Organization/tl-9"], known) == [
        "Organization/tl-2",
        "Organization/tl-9",
    ]
    with pytest.raises(InputError, match="2 of 3 locations"):
        practice.resolve_locations(["Organization/1", "Organization/2", "Organization/3"], known)
    assert practice.resolve_tenant("Organization/t-7", {}) == "t-7"
    with pytest.raises(InputError) as refused:
        practice.resolve_tenant("Organization/2", known)
    assert refused.value.code == "tenant-not-known"


def test_practice_numbers_by_the_types_of_their_parts() -> None:
    """Whatever the parts are called: a reference is the laboratory, text the number; or both are an Identifier."""
    laboratory = {"reference": "Organization/1"}
    practitioner = {
        "extension": [
            {"url": "https://clinic.example/other"},
            {
                "url": practice.LAB_ACCOUNT_EXTENSION,
                "extension": [
                    {"url": "lab", "valueReference": laboratory},
                    {"url": "account", "valueString": "A"},
                    {"url": "since", "valueDate": "2026-01-01"},
                ],
            },
            {
                "url": practice.LAB_ACCOUNT_EXTENSION,
                "extension": [{"url": "number", "valueIdentifier": {"value": "B", "assigner": laboratory}}],
            },
            {"url": practice.LAB_ACCOUNT_EXTENSION},
        ]
    }
    numbers = practice.practice_numbers(practitioner)
    assert [number.get("value") for number in numbers] == ["A", "B", None]
    assert practice.assigners(numbers) == ["Organization/1"]
    resolved, issues = practice.resolve_numbers(numbers, {"Organization/1": LAB}, "Practitioner.extension")
    assert resolved == [identifiers.account_number("Organization/f-1", value) for value in ("A", "B")]
    assert [issue.code for issue in issues] == ["account-number-empty"]
    _, issues = practice.resolve_numbers(numbers[:1], {}, "Practitioner.extension")
    assert [(issue.code, issue.expression) for issue in issues] == [
        ("account-number-unresolved", ("Practitioner.extension",))
    ]


def test_practice_numbers_that_are_old_or_have_a_logical_laboratory() -> None:
    """The rules are those of a physician's own: old ones are left out, a laboratory may be named by its id."""
    logical = {"identifier": {"system": HG, "value": "f-1"}}
    numbers = [
        {"type": {"text": "Account number"}, "value": "A", "use": "old", "assigner": {"reference": "Organization/1"}},
        {"type": {"text": "Account number"}, "value": "B", "assigner": logical},
    ]
    resolved, issues = practice.resolve_numbers(numbers, {"Organization/1": LAB}, "Organization.identifier")
    assert resolved == [identifiers.account_number("Organization/f-1", "B")]
    assert [(issue.code, issue.severity) for issue in issues] == [("account-number-old", "information")]
    part = {"url": "number", "valueIdentifier": {key: numbers[0][key] for key in ("value", "use", "assigner")}}
    (read,) = practice.practice_numbers(
        {"extension": [{"url": practice.LAB_ACCOUNT_EXTENSION, "extension": [part]}]},
    )
    assert practice.resolve_numbers([read], {"Organization/1": LAB}, "Practitioner.extension")[0] == []


def test_numbers_of_a_location() -> None:
    """Account numbers are told from other identifiers of the Organization by their type."""
    number = {"type": {"text": "Account number"}, "value": "A"}
    assert practice.numbers_of({"identifier": [*PLACE["identifier"], number]}) == [number]
