"""Searches beyond the recordings."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bot_layer.fhir.json import Json
from medplum_sandbox.medplum.dates import span
from tests.medplum_sandbox.medplum_caller import SYSTEM, Caller, medplum, patient, text_of

LOINC = "http://loinc.org"


def observation(value: str, **fields: object) -> Json:
    """An invented observation."""
    return {
        "resourceType": "Observation",
        "identifier": [{"system": SYSTEM, "value": value}],
        "status": "final",
        "code": {"coding": [{"system": LOINC, "code": "1-8", "display": "Heart rate"}], "text": "Pulse"},
        **fields,
    }


@pytest.fixture(scope="module")
def caller() -> Iterator[Caller]:
    """A client of a sandbox with a few resources that are only read."""
    with medplum() as (_, client):
        ann = client.created(
            patient(
                "ann",
                name=[{"prefix": ["Dr"], "given": ["Ann", "Lee"], "family": "O'Neill"}],
                birthDate="1980-05",
                active=True,
                telecom=[{"system": "phone", "value": "555"}, {"system": "email", "value": "a@example.org"}],
                address=[{"line": ["1 Main St"], "city": "Old Town", "postalCode": "90001"}],
                meta={"tag": [{"system": SYSTEM, "code": "t1"}], "profile": ["https://example.org/p"]},
            )
        )
        client.created(patient("bob", name=[{"text": "Bob Text"}], active=False))
        subject = {"reference": f"Patient/{ann['id']}"}
        quantity = {"value": 7.5, "unit": "mg", "system": "http://unitsofmeasure.org", "code": "mg"}
        period = {"start": "2024-03-01", "end": "2024-03-31"}
        client.created(observation("o1", subject=subject, valueQuantity=quantity, effectiveDateTime="2024-03-05"))
        client.created(observation("o2", subject=subject, effectivePeriod=period))
        client.created(observation("o3", effectivePeriod={"start": "2024-04-01"}))
        yield client


def values(resources: list[Json]) -> list[str]:
    """The identifiers' values."""
    return [resource["identifier"][0]["value"] for resource in resources]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("name=ann%20o'neill", ["ann"]),
        ("name=ann%20nobody", []),
        ("name=ann%20o'neill,bob", ["ann", "bob"]),
        ("name=%20", []),
        ("name:exact=Dr%20Ann%20Lee%20O'Neill", ["ann"]),
        ("name=text", ["bob"]),
        ("address=main", ["ann"]),
        ("address-city=old", ["ann"]),
        ("phone=555", ["ann"]),
        ("email=555", []),
        ("telecom=phone|555", ["ann"]),
        ("active=true", ["ann"]),
        ("active=false,true", ["ann", "bob"]),
        ("_tag=t1", ["ann"]),
        ("_tag=" + SYSTEM + "|t1", ["ann"]),
        ("_profile=https://example.org/p", ["ann"]),
        ("identifier=|ann", []),
        ("identifier=ann," + SYSTEM + "|bob", ["ann", "bob"]),
        ("birthdate=1980", ["ann"]),
        ("birthdate=1980-05", ["ann"]),
        ("birthdate=1980-05-01", []),
        ("birthdate=ne1980", []),
        ("birthdate=lt1980-06,gt1990", ["ann"]),
        ("birthdate:missing=true", ["bob"]),
        ("birthdate:missing=false", ["ann"]),
        ("name:missing=false", ["ann", "bob"]),
        ("_id:not=00000000-0000-4000-8000-000000000000", ["ann", "bob"]),
        ("_lastUpdated=gt2000,lt1999", ["ann", "bob"]),
        ("identifier=ann&_lastUpdated=lt1999,gt2000", ["ann"]),
        ("active=true&name=ann&birthdate=ge1980", ["ann"]),
        ("_has:Observation:patient:code=1-8", ["ann"]),
        ("_has:Observation:patient:_id:not=1", ["ann"]),
        ("address-city=new", []),
        ("_sort=-name,_id", ["ann", "bob"]),
    ],
)
def test_patients_are_found(caller: Caller, query: str, expected: list[str]) -> None:
    """By words, tokens, dates and what is missing."""
    assert values([r for r in caller.found(f"Patient?{query}") if "identifier" in r]) == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("value-quantity=7.5", ["o1"]),
        ("value-quantity=gt7", ["o1"]),
        ("value-quantity=lt7", []),
        ("value-quantity=7.5|http://unitsofmeasure.org|mg", ["o1"]),
        ("value-quantity=7.5|http://other|mg", []),
        ("date=2024-03", ["o1", "o2"]),
        ("date=sa2024-03-15", ["o3"]),
        ("date=eb2024-03-15", ["o1"]),
        ("date=ap2024-03-06", ["o2"]),
        ("date=ge2024-03-31", ["o2", "o3"]),
        ("date=le2024-03-01", ["o2"]),
        ("code:text=pul", ["o1", "o2", "o3"]),
        ("code:text=heart", ["o1", "o2", "o3"]),
        ("code:not=1-8", []),
        ("patient.name=ann", ["o1", "o2"]),
        ("subject:Patient._id=nobody", []),
        ("subject:missing=true", ["o3"]),
        ("patient.birthdate=ge1980", ["o1", "o2"]),
    ],
)
def test_observations_are_found(caller: Caller, query: str, expected: list[str]) -> None:
    """By quantities, spans of time, texts of codes, and through references."""
    assert values(caller.found(f"Observation?{query}")) == expected


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("value-quantity=much", "Invalid number: much"),
        ("_has:Nothing:patient:code=1", "Invalid search parameter: _has:Nothing:patient:code"),
        ("_has:Encounter:status:code=1", "Invalid search parameter: _has:Encounter:status:code"),
        ("_revinclude=Nothing:patient", "Invalid revinclude parameter: Nothing:patient"),
        ("_include=Observation:code", "Invalid include parameter: Observation:code"),
        ("code.x=1", "Unable to identify next resource type for search parameter: Observation?code"),
    ],
)
def test_what_cannot_be_searched_for_is_refused(caller: Caller, query: str, text: str) -> None:
    """400 with the reason."""
    answer = caller.get(f"Observation?{query}")
    assert (answer.status_code, text_of(answer)) == (400, text)


def test_every_type_has_the_usual_parameters(caller: Caller) -> None:
    """Those of FHIR's registry, and no others."""
    assert caller.found("NutritionOrder?identifier=x&patient=y&datetime=2024-01-01") == []
    assert caller.get("NutritionOrder?subject=y").status_code == 400


def test_an_include_can_name_the_target_type(caller: Caller) -> None:
    """References to other types are left out; without matches nothing is looked up."""
    assert len(caller.found("Observation?identifier=o1&_include=Observation:subject:Patient")) == 2
    assert len(caller.found("Observation?identifier=o1&_include=Observation:subject:Group")) == 1
    assert caller.found("Patient?identifier=nobody&_revinclude=Observation:subject") == []


def test_a_summary_leaves_the_text_out(caller: Caller) -> None:
    """And is marked as a part."""
    div = {"status": "generated", "div": '<div xmlns="http://www.w3.org/1999/xhtml">x</div>'}
    caller.created({"resourceType": "Basic", "code": {"text": "x"}, "text": div})
    found = caller.found("Basic?_summary=data")[0]
    assert "text" not in found
    assert found["meta"]["tag"][0]["code"] == "SUBSETTED"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2024", ("2024-01-01T00:00:00.000Z", "2024-12-31T23:59:59.999Z")),
        ("2024-12", ("2024-12-01T00:00:00.000Z", "2024-12-31T23:59:59.999Z")),
        ("2024-02-29", ("2024-02-29T00:00:00.000Z", "2024-02-29T23:59:59.999Z")),
        ("2024-01-01T10:00", ("2024-01-01T10:00:00.000Z", "2024-01-01T10:00:59.999Z")),
        ("2024-01-01T00:30:00+01:00", ("2023-12-31T23:30:00.000Z", "2023-12-31T23:30:00.999Z")),
        ("2024-01-01T00:30:00.5-01:00", ("2024-01-01T01:30:00.500Z", "2024-01-01T01:30:00.500Z")),
        ({"end": "2024"}, ("0000", "2024-12-31T23:59:59.999Z")),
        ({"event": ["2024", "2023"]}, ("2023-01-01T00:00:00.000Z", "2024-12-31T23:59:59.999Z")),
        ({"event": []}, None),
        ({}, None),
        ("2023-02-30", None),
        ("soon", None),
        (7, None),
    ],
)
def test_a_date_is_the_span_that_it_names(value: object, expected: tuple[str, str] | None) -> None:
    """From the first to the last millisecond, in UTC."""
    assert span(value) == expected
