"""Searches beyond the recordings."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bot_layer.fhir.json import Json
from medplum_sandbox.medplum.dates import start_of
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
        ("name=%20", ["ann", "bob"]),
        ("name=:,", ["ann", "bob"]),
        ("name:exact=Dr%20Ann%20Lee%20O'Neill", ["ann"]),
        ("name=text", ["bob"]),
        ("address=main", ["ann"]),
        ("address-city=old", ["ann"]),
        ("phone=555", ["ann"]),
        ("email=555", []),
        ("email=A@EXAMPLE.org", ["ann"]),
        ("telecom:contains=55", ["ann"]),
        ("phonetic=dr", ["ann"]),
        ("phonetic=ann", []),
        ("identifier:contains=", ["ann", "bob"]),
        ("identifier:contains=nobody,", ["ann", "bob"]),
        ("email:text=,nobody", ["ann", "bob"]),
        ("_tag:text=nobody,%20", ["ann", "bob"]),
        ("_tag:text=nobody", []),
        ("email=555,", []),
        ("email=,a@example.org", ["ann"]),
        ("_tag=,", []),
        ("name=nobody,", ["ann", "bob"]),
        ("gender:not=male", ["ann", "bob"]),
        ("deceased=false", ["ann", "bob"]),
        ("telecom=phone|555", ["ann"]),
        ("active=true", ["ann"]),
        ("active:not=true", ["bob"]),
        ("_tag=t1", ["ann"]),
        ("_tag=" + SYSTEM + "|t1", ["ann"]),
        ("_profile=https://example.org/p", ["ann"]),
        ("identifier=|ann", []),
        ("identifier=ann," + SYSTEM + "|bob", ["ann", "bob"]),
        ("birthdate=1980-05-01", ["ann"]),
        ("birthdate=1980-05-02", []),
        ("birthdate=ne1980-05-02", ["ann"]),
        ("birthdate=lt1980-06-01&birthdate=gt1979-01-01", ["ann"]),
        ("birthdate:missing=true", ["bob"]),
        ("birthdate:missing=false", ["ann"]),
        ("name:missing=false", []),
        ("_id:not=00000000-0000-4000-8000-000000000000", ["ann", "bob"]),
        ("_lastUpdated=gt2000-01-01", ["ann", "bob"]),
        ("identifier=ann&_lastUpdated=lt1999-01-01", []),
        ("active=true&name=ann&birthdate=ge1980-01-01", ["ann"]),
        ("_has:Observation:patient:code=1-8", ["ann"]),
        ("_has:Observation:patient:code:not=2", ["ann"]),
        ("address-city=new", []),
        ("_sort=-name,_id", ["ann", "bob"]),
    ],
)
def test_patients_are_found(caller: Caller, query: str, expected: list[str]) -> None:
    """By words, tokens, dates and missing values."""
    assert values([r for r in caller.found(f"Patient?{query}") if "identifier" in r]) == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("value-quantity=7.5", ["o1"]),
        ("value-quantity=gt7", ["o1"]),
        ("value-quantity=lt7", []),
        ("value-quantity=7.5|http://other|mg", ["o1"]),
        ("value-quantity=ap7", ["o1"]),
        ("date=2024-03-05", ["o1"]),
        ("date=sa2024-03-15", ["o3"]),
        ("date=eb2024-03-15", ["o1", "o2"]),
        ("date=ge2024-03-31", ["o3"]),
        ("date=le2024-03-01", ["o2"]),
        ("code:text=uls", ["o1", "o2", "o3"]),
        ("code=Pulse", ["o1", "o2", "o3"]),
        ("code=|Pulse", []),
        ("code:text=heart", ["o1", "o2", "o3"]),
        ("code:not=1-8", []),
        ("patient.name=ann", ["o1", "o2"]),
        ("subject:Patient._id=nobody", []),
        ("subject:missing=true", ["o3"]),
        ("patient.birthdate=ge1980-01-01", ["o1", "o2"]),
    ],
)
def test_observations_are_found(caller: Caller, query: str, expected: list[str]) -> None:
    """By quantities, spans of time, texts of codes, and through references."""
    assert values(caller.found(f"Observation?{query}")) == expected


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("value-quantity=much", 'invalid input syntax for type double precision: "much"'),
        ("component-value-quantity=5", 'malformed array literal: "5"'),
        ("date=2024", "Invalid date value: 2024"),
        ("date=ap2024-03-06", "Unknown FHIR operator: ap"),
        ("date=soon", "Invalid format for date search parameter: soon"),
        ("date:in=2024-03-06", "Invalid modifier :in for date"),
        ("code:in=x", "Invalid modifier :in for clinical-code"),
        ("code:missing=maybe", "Search filter ':missing' must have a value of 'true' or 'false'"),
        ("code-value-quantity=x", "Unrecognized search parameter type: composite"),
        ("_has:Nothing:patient:code=1", "Invalid search parameter in chain: Nothing?patient"),
        (
            "_has:Encounter:status:code=1",
            "Invalid reverse chain link: search parameter Encounter?status does not refer to Observation",
        ),
        ("_revinclude=Nothing:patient", "Unknown resource type"),
        ("_include=foo", "Invalid include value 'foo': must be of the form ResourceType:search-parameter"),
        ("code.x=1", "Unable to identify next resource type for search parameter: Observation?code"),
    ],
)
def test_invalid_searches_are_refused(caller: Caller, query: str, text: str) -> None:
    """400 with the reason."""
    answer = caller.get(f"Observation?{query}")
    assert (answer.status_code, text_of(answer)) == (400, text)


def test_every_type_has_the_usual_parameters(caller: Caller) -> None:
    """Those of FHIR's registry, and no others."""
    assert caller.found("NutritionOrder?identifier=x&patient=y&datetime=2024-01-01") == []
    assert caller.get("NutritionOrder?subject=y").status_code == 400


def test_an_include_can_name_the_target_type(caller: Caller) -> None:
    """The server reads the type and passes it over; without matches nothing is looked up."""
    assert len(caller.found("Observation?identifier=o1&_include=Observation:subject:Patient")) == 2
    assert len(caller.found("Observation?identifier=o1&_include=Observation:subject:Group")) == 2
    assert caller.found("Patient?identifier=nobody&_revinclude=Observation:subject") == []


def test_a_summary_leaves_the_text_out(caller: Caller) -> None:
    """And is marked as a part."""
    div = {"status": "generated", "div": '<div xmlns="http://www.w3.org/1999/xhtml">x</div>'}
    caller.created({"resourceType": "Basic", "code": {"text": "x"}, "text": div})
    found = caller.found("Basic?_summary=data")[0]
    assert "text" not in found
    assert found["meta"]["tag"][0]["code"] == "SUBSETTED"


@pytest.mark.parametrize(
    ("query", "elements"),
    [
        ("_fields=identifier", {"status", "code", "identifier"}),
        ("_elements=subject", {"status", "code", "subject"}),
        ("_fields=value", {"status", "code", "valueQuantity"}),
        ("_summary=text", {"status", "code"}),
        ("_summary=true", {"identifier", "status", "code", "subject", "effectiveDateTime", "valueQuantity"}),
    ],
)
def test_a_part_of_a_resource_has_what_its_type_must_have(caller: Caller, query: str, elements: set[str]) -> None:
    """The mandatory elements are included, even if not requested; a choice is named without its type."""
    found = caller.found(f"Observation?identifier=o1&{query}")[0]
    assert found.keys() - {"resourceType", "id", "meta"} == elements


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2024", "2024-01-01T00:00:00.000Z"),
        ("2024-12", "2024-12-01T00:00:00.000Z"),
        ("2024-02-29", "2024-02-29T00:00:00.000Z"),
        ("2024-01-01T10:00", "2024-01-01T10:00:00.000Z"),
        ("2024-01-01T00:30:00+01:00", "2023-12-31T23:30:00.000Z"),
        ("2024-01-01T00:30:00.5-01:00", "2024-01-01T01:30:00.500Z"),
        ({"start": "2023-05"}, "2023-05-01T00:00:00.000Z"),
        ({"end": "2024"}, "2024-12-31T23:59:59.999Z"),
        ({"event": []}, None),
        ({}, None),
        ("2023-02-30", None),
        ("soon", None),
        (7, None),
    ],
)
def test_a_date_is_found_by_the_instant_at_which_it_begins(value: object, expected: str | None) -> None:
    """In UTC, to the millisecond; a Period without a start by its end."""
    assert start_of(value) == expected


@pytest.fixture(scope="module")
def filtered() -> Iterator[Caller]:
    """A client of a sandbox with two patients, Alpha and Beta."""
    with medplum() as (_, client):
        client.created(patient("a", name=[{"family": "Alpha"}], gender="female", birthDate="1980-01-01"))
        client.created(patient("b", name=[{"family": "Beta"}], gender="male", birthDate="1999-01-01"))
        yield client


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ('family eq "Alpha"', ["a"]),
        ("family co alph", ["a"]),
        ("family sw al or family sw be", ["a", "b"]),
        ("not (family eq Alpha) and gender eq male", ["b"]),
        ("(birthdate lt 1990-01-01)", ["a"]),
        ("gender pr true and not (family eq Beta)", ["a"]),
        ("family eq Alpha) and what follows", ["a"]),
    ],
)
def test_a_filter_expression_selects(filtered: Caller, expression: str, found: list[str]) -> None:
    """Comparisons, negation, and connectives that bind to the right; what follows a whole expression does not count."""
    entries = filtered.get("Patient", params={"_filter": expression}).json().get("entry", [])
    assert sorted(entry["resource"]["identifier"][0]["value"] for entry in entries) == found


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("family", "Cant consume unknown more tokens."),
        ("family po x", "Invalid operator: po"),
        ("foo eq x", "Unknown search parameter: foo"),
        ("not family eq x", 'Expected ( but got "Symbol" (family) at line 1 column 4.'),
    ],
)
def test_a_filter_expression_is_refused_as_a_server_refuses_it(filtered: Caller, expression: str, text: str) -> None:
    """As a real 5.1.13 answered."""
    answer = filtered.get("Patient", params={"_filter": expression})
    assert (answer.status_code, text_of(answer)) == (400, text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("1.5", 'invalid input syntax for type integer: "1.5"'),
        ("apx", "Unknown FHIR operator: ap"),
        ("le99.99", 'invalid input syntax for type integer: "99.99"'),
    ],
)
def test_the_number_of_a_priority_is_an_integer(filtered: Caller, value: str, text: str) -> None:
    """Tried on a real 5.1.13."""
    answer = filtered.get("Communication", params={"priority-order": value})
    assert (answer.status_code, text_of(answer)) == (400, text)


def test_an_unknown_order_is_found_before_the_database_refuses_a_value(filtered: Caller) -> None:
    """The database of a real server sees no search that cannot be built."""
    answer = filtered.get("Communication", params={"priority-order": "1.5", "_sort": "foo"})
    assert text_of(answer) == "Unknown search parameter: foo"


def test_a_link_names_a_parameter_with_a_modifier_first(filtered: Caller) -> None:
    """As a real 5.1.13 sorts them."""
    link = filtered.get("Patient?gender=male&gender:not=female").json()["link"][0]["url"]
    assert link.endswith("?_count=20&gender:not=female&gender=male")
