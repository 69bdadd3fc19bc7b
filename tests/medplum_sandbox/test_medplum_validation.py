"""What a resource may look like, beyond the recordings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bot_layer.fhir.json import Json
from medplum_sandbox.medplum.definitions.tables import is_resource_type, type_of
from medplum_sandbox.medplum.outcomes import FhirError
from medplum_sandbox.medplum.validation import clean, validate
from tests.medplum_sandbox.medplum_caller import Caller, medplum


@pytest.fixture(scope="module")
def caller() -> Iterator[Caller]:
    """A client of a sandbox."""
    with medplum() as (_, client):
        yield client


def issues(resource: Json) -> list[tuple[str, str]]:
    """(text, expression) of each issue."""
    try:
        validate(resource)
    except FhirError as error:
        return [(i["details"]["text"], i.get("expression", [""])[0]) for i in error.outcome["issue"]]
    return []


def patient(**fields: Any) -> Json:
    """A Patient with nothing else."""
    return {"resourceType": "Patient", **fields}


@pytest.mark.parametrize(
    ("fields", "text", "path"),
    [
        ({"gender": ["male"]}, "Expected single value for property", "gender"),
        ({"name": ["A"]}, 'Invalid additional property "0"', "name[0].0"),
        ({"name": [{}]}, "Invalid empty non-primitive value", "name[0]"),
        ({"name": [{"given": "A"}]}, "Expected array of values for property", "name.given"),
        ({"name": [{"given": ["A", None]}]}, "Invalid null value", "name[0].given[1]"),
        ({"multipleBirthInteger": 1.5}, "Expected number to be an integer", "multipleBirth[x]"),
        ({"multipleBirthInteger": "2"}, "Invalid JSON type: expected number, but got string", "multipleBirth[x]"),
        ({"telecom": [{"system": "phone", "rank": 0}]}, "Expected number to be positive", "telecom[0].rank"),
        ({"gender": "  "}, "String must contain non-whitespace content", "gender"),
        ({"gender": "a  b"}, "Invalid code format", "gender"),
        ({"deceasedDateTime": "2024-01-01T10:00"}, "Invalid dateTime format", "deceased[x]"),
        ({"birthDate": "2024-13-01"}, "Invalid date format", "birthDate"),
        ({"contained": [{"id": "a", "code": "x"}]}, 'Invalid additional property "code"', "contained[0].code"),
        ({"extension": [{"url": "a:b"}]}, "ext-1", "extension[0]"),
        ({"photo": [{"data": "???"}]}, "Invalid base64Binary format", "photo[0].data"),
        ({"contact": [{"gender": "male"}]}, "pat-1", "contact[0]"),
        ({"resource": 1}, 'Invalid additional property "resource"', "resource"),
        ({"_names": []}, 'Invalid additional property "_names"', "_names"),
        ({"birthDate": "", "_birthDate": {"id": "a"}}, "String must contain non-whitespace content", "birthDate"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(fields: Json, text: str, path: str) -> None:
    """The message is Medplum's, the expression leads to the element."""
    found = issues(patient(**fields))
    assert [place for _, place in found] == [f"Patient.{path}"]
    assert text in found[0][0]


@pytest.mark.parametrize(
    "fields",
    [
        {"birthDate": "1980"},
        {"_birthDate": {"extension": [{"url": "a:b", "valueCode": "unknown"}]}},
        {"gender": "", "identifier": {}, "meta": []},
        {"maritalStatus": True, "name": [5]},
        {"telecom": [{"value": "1"}], "photo": [{"data": "AA=="}]},
        {"deceasedDateTime": "2024-01-01T10:00:00.123456+02:00"},
        {"name": [{"given": ["A", None], "_given": [None, {"extension": [{"url": "a:b", "valueString": "x"}]}]}]},
        {"identifier": [{"period": {"start": "2024-01", "end": "2024-01-31"}}]},
        {"contained": [{"resourceType": "Organization", "id": "o", "name": "Clinic"}]},
        {"meta": {"project": "x", "account": {"reference": "Organization/1"}, "tag": [{"code": "t"}]}},
    ],
)
def test_valid_fhir_passes(fields: Json) -> None:
    """Partial dates, extensions of primitives, contained resources, and what the server lets through as well.

    Tried on a server 5.1.13: the constraints of data types (``cpt-2``, ``att-1``) are not checked where they are used.
    """
    assert issues(patient(**fields)) == []


@pytest.mark.parametrize(
    ("resource", "key"),
    [
        ({"resourceType": "Organization", "telecom": [{"use": "home"}]}, "org-3"),
        ({"resourceType": "AllergyIntolerance", "patient": {"reference": "Patient/1"}}, "ait-1"),
        (
            {
                "resourceType": "Observation",
                "status": "final",
                "code": {"text": "x"},
                "valueString": "1",
                "dataAbsentReason": {"text": "no"},
            },
            "obs-6",
        ),
        (
            {
                "resourceType": "Appointment",
                "status": "booked",
                "participant": [{"status": "accepted", "actor": {"display": "Ann"}}],
            },
            "app-3",
        ),
        ({"resourceType": "Bot", "cronTiming": {"repeat": {"period": 1}}}, "tim-2"),
        ({"resourceType": "Bot", "cronTiming": {"repeat": {"duration": 1}}}, "tim-1"),
    ],
)
def test_constraints_of_the_types_in_use_hold(resource: Json, key: str) -> None:
    """Each is refused with its key."""
    assert [text.split()[1] for text, _ in issues(resource)] == [key]


def test_children_and_descendants_find_nothing() -> None:
    """As on a server 5.1.13: que-2 and sdf-9 refuse nothing, and csd-1 compares the codes of the first level."""
    item = {"linkId": "a", "type": "string"}
    nested = {"linkId": "b", "type": "group", "item": [item]}
    assert issues({"resourceType": "Questionnaire", "status": "draft", "item": [item, nested]}) == []
    system = {"resourceType": "CodeSystem", "status": "draft", "content": "complete"}
    assert issues({**system, "concept": [{"code": "a", "concept": [{"code": "a"}]}]}) == []
    assert [text.split()[1] for text, _ in issues({**system, "concept": [{"code": "a"}, {"code": "a"}]})] == ["csd-1"]
    element = {"id": "Patient", "path": "Patient", "label": "against sdf-9"}
    names = {"url": "urn:x", "name": "X", "status": "draft", "kind": "resource", "abstract": True, "type": "Patient"}
    profile = {"resourceType": "StructureDefinition", **names, "differential": {"element": [element]}}
    assert issues(profile) == []


def test_an_allergy_entered_in_error_needs_no_clinical_status() -> None:
    """The exception that ait-1 makes."""
    system = "http://terminology.hl7.org/CodeSystem/allergyintolerance-verification"
    coding = [{"system": system, "code": "entered-in-error"}]
    allergy = {"resourceType": "AllergyIntolerance", "patient": {"reference": "Patient/1"}}
    assert issues({**allergy, "verificationStatus": {"coding": coding}}) == []


def test_a_required_element_that_is_empty_is_missing() -> None:
    """Empty strings are dropped, so that they can't stand for a value."""
    assert issues({"resourceType": "Encounter", "status": "", "class": {"code": "AMB"}}) == [
        ("Missing required property", "Encounter.status")
    ]


def test_a_resource_needs_a_type() -> None:
    """Without one there is nothing to compare it with."""
    assert issues({"id": "1"}) == [("Missing resource type", "")]


def test_empty_values_are_dropped_and_nulls_between_values_are_kept() -> None:
    """A list whose values have extensions keeps its positions."""
    assert clean({"a": "", "b": [], "c": {"d": [{}]}, "e": ["x", None], "f": False}) == {"e": ["x", None], "f": False}


def test_types_are_resources_data_types_or_unknown() -> None:
    """Only resources have an end point, Medplum's own among them."""
    assert is_resource_type("Patient")
    assert is_resource_type("ProjectMembership")
    assert not is_resource_type("HumanName")
    assert not is_resource_type("DomainResource")
    assert not is_resource_type("patient")
    assert type_of("NoSuchType") is None


CONDITION: Json = {"resourceType": "Condition", "subject": {"reference": "Patient/1"}}
NULL, ADDITIONAL = "Invalid null value", "Invalid additional property"


@pytest.mark.parametrize(
    ("resource", "texts"),
    [
        (
            CONDITION | {"clinicalStatus": {"id": "e"}, "_clinicalStatus": [None]},
            [NULL, NULL, f'{ADDITIONAL} "0"'],
        ),
        (CONDITION | {"clinicalStatus": {"id": "e"}, "_clinicalStatus": [{"id": "x"}]}, [f'{ADDITIONAL} "0"']),
        (
            CONDITION | {"clinicalStatus": {"text": "e"}, "_clinicalStatus": "ab"},
            ["Primitive extension must be an object"],
        ),
        (
            CONDITION | {"clinicalStatus": {"text": "e"}, "_clinicalStatus": 5},
            ["Primitive extension must be an object"],
        ),
        (CONDITION | {"_clinicalStatus": [None]}, [NULL, "Expected single value for property"]),
        (
            CONDITION | {"category": [{"text": "t"}], "_category": [{"id": "z"}, None]},
            [NULL, "Invalid empty non-primitive value"],
        ),
        (
            {"resourceType": "Patient", "name": [{"given": ["a"], "_given": [None, None]}]},
            [NULL, "Invalid JSON type: expected string, but got undefined"],
        ),
    ],
)
def test_a_property_beside_a_value_is_merged_into_it(caller: Caller, resource: Json, texts: list[str]) -> None:
    """Before validation: a list beside an object uses the positions as names. Answers of a real 5.1.13."""
    answer = caller.post(resource["resourceType"], json=resource)
    assert answer.status_code == 400
    assert [issue["details"]["text"] for issue in answer.json()["issue"]] == texts


@pytest.mark.parametrize(
    ("resource", "stored"),
    [
        (
            CONDITION | {"category": [{"id": "e", "text": "t"}, {"id": "f"}], "_category": [{"id": "z"}]},
            {"category": [{"id": "z", "text": "t"}, {"id": "f"}]},
        ),
        (
            {"resourceType": "Communication", "status": "active", "instantiatesUri": ["a", {}]},
            {"instantiatesUri": ["a", None]},
        ),
        ({"resourceType": "Communication", "status": "active", "instantiatesUri": [[]]}, {}),
        ({"resourceType": "Patient", "name": [{"given": [{}]}]}, {}),
    ],
)
def test_empty_values_in_a_list_of_texts_are_let_through(caller: Caller, resource: Json, stored: Json) -> None:
    """They are removed, or keep the positions of the others. Answers of a real 5.1.13."""
    made = caller.created(resource)
    assert {name: made[name] for name in ("category", "instantiatesUri", "name") if name in made} == stored
