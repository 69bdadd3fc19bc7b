"""Patient of the Health Gorilla look-alike: registration, duplicates, versions, search."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from medplum_sandbox.health_gorilla import HealthGorillaSandbox, Switches
from tests.medplum_sandbox.health_gorilla_caller import Caller, location_id, patient

OWN = "https://www.healthgorilla.com"


@pytest.fixture
def hg() -> Iterator[HealthGorillaSandbox]:
    with HealthGorillaSandbox() as running:
        yield running


@pytest.fixture
def caller(hg: HealthGorillaSandbox) -> Caller:
    return Caller(hg)


def register(caller: Caller, value: str = "p-1", **changes: Any) -> str:
    answer = caller.send("POST", "Patient", patient(value, **changes))
    assert answer.status_code == 201, answer.text
    return location_id(answer)


def test_a_patient_is_registered_with_own_identifiers(hg: HealthGorillaSandbox, caller: Caller) -> None:
    """Health Gorilla adds its id and its own record number, which differs from the id."""
    patient_id = register(caller)
    (one,) = hg.patients()
    own = [i for i in one["identifier"] if i["system"] == OWN]
    assert own[0]["value"] == patient_id != own[1]["value"]
    assert own[1]["type"]["coding"][0]["code"] == "MR"
    assert caller.get(f"Patient/{patient_id}") == one


PT = patient()["identifier"][0]
REFUSALS: dict[str, dict[str, Any]] = {
    "no name": {"name": None},
    "no given name": {"name": [{"family": "Fernwood"}]},
    "no birth date": {"birthDate": None},
    "no gender": {"gender": None},
    "an unknown gender": {"gender": "F"},
    "no address": {"address": None},
    "an address without place": {"address": [{"line": ["1"], "city": "Monica"}]},
    "a telecom with only use": {"telecom": [{"use": "home"}]},
    "no identifier": {"identifier": None},
    "an identifier without value": {"identifier": [{k: v for k, v in PT.items() if k != "value"}]},
    "Health Gorilla's system": {"identifier": [{**PT, "system": OWN}]},
}


@pytest.mark.parametrize("case", REFUSALS)
def test_incomplete_demographics_are_refused(hg: HealthGorillaSandbox, caller: Caller, case: str) -> None:
    """422, and no patient is registered."""
    answer = caller.send("POST", "Patient", patient(**REFUSALS[case]))
    assert answer.status_code == 422, answer.text
    assert hg.patients() == []


def test_other_genders_may_be_refused() -> None:
    """The federation document names two genders: a switch."""
    for allowed, status in ((True, 201), (False, 422)):
        with HealthGorillaSandbox(switches=Switches(other_genders=allowed)) as hg:
            assert Caller(hg).send("POST", "Patient", patient(gender="other")).status_code == status


def test_create_answers_with_or_without_a_body() -> None:
    """Both are documented: a switch."""
    for body in ("empty", "resource"):
        with HealthGorillaSandbox(switches=Switches().but(patient_create_body=body)) as hg:
            answer = Caller(hg).send("POST", "Patient", patient())
            assert (answer.content == b"") is (body == "empty")


@pytest.mark.parametrize(("fate", "status", "count"), [("409", 409, 1), ("existing", 200, 1), ("second", 201, 2)])
def test_a_duplicate_is_refused_found_or_made(fate: str, status: int, count: int) -> None:
    """A POST with an existing external identifier: the behavior is not documented, so it is a switch."""
    with HealthGorillaSandbox(switches=Switches().but(duplicate_patient=fate)) as hg:
        caller = Caller(hg)
        first = register(caller)
        answer = caller.send("POST", "Patient", patient(birthDate="1991-01-01"))
        assert (answer.status_code, len(hg.patients())) == (status, count)
        if fate == "existing":
            assert location_id(answer) == first


def test_if_none_exist_finds_creates_or_complains() -> None:
    """None: created; one: 200 and that one; several: 412. With the switch off the header does nothing."""
    header = {"If_None_Exist": "identifier=https://clinic.example|p-1"}
    with HealthGorillaSandbox(switches=Switches(duplicate_patient="second")) as hg:
        caller = Caller(hg)
        first = caller.send("POST", "Patient", patient(), **header)
        again = caller.send("POST", "Patient", patient(), **header)
        assert (first.status_code, again.status_code, len(hg.patients())) == (201, 200, 1)
        register(caller)
        assert caller.send("POST", "Patient", patient(), **header).status_code == 412
        assert caller.send("POST", "Patient", patient(), If_None_Exist="telecom=1").status_code == 400
    with HealthGorillaSandbox(switches=Switches(duplicate_patient="second", conditional_create=False)) as hg:
        caller = Caller(hg)
        for _ in range(2):
            assert caller.send("POST", "Patient", patient(), **header).status_code == 201


def test_put_replaces_under_optimistic_locking() -> None:
    """A good If-Match replaces, a stale one is 412 or 409; without the header the last writer wins."""
    for status in (409, 412):
        with HealthGorillaSandbox(switches=Switches().but(stale_patient_status=status)) as hg:
            caller = Caller(hg)
            path = f"Patient/{register(caller)}"
            etag = f'W/"{hg.patients()[0]["meta"]["versionId"]}"'
            moved = patient(address=[{"postalCode": "90210"}])
            assert caller.send("PUT", path, moved, If_Match=etag).status_code == 200
            assert caller.send("PUT", path, patient(), If_Match=etag).status_code == status
            assert hg.patients()[0]["address"] == [{"postalCode": "90210"}]
            assert caller.send("PUT", path, patient()).status_code == 200
            assert caller.send("PUT", path, {**patient(), "id": "other"}).status_code == 400


def test_put_on_an_unknown_id_creates(hg: HealthGorillaSandbox, caller: Caller) -> None:
    """201 with Location; an If-Match there is stale."""
    path = "Patient/" + "a" * 24
    assert caller.send("PUT", path, patient(), If_Match='W/"1"').status_code == 412
    answer = caller.send("PUT", path, patient())
    assert (answer.status_code, location_id(answer)) == (201, "a" * 24)
    assert len(hg.patients()) == 1


def test_put_can_not_take_anothers_identifier(hg: HealthGorillaSandbox, caller: Caller) -> None:
    """409: external identifiers are unique."""
    register(caller, "p-1")
    second = register(caller, "p-2")
    assert caller.send("PUT", f"Patient/{second}", patient("p-1")).status_code == 409


@pytest.mark.parametrize(("fate", "count"), [("dropped", 1), ("kept", 3)])
def test_own_identifiers_left_out_are_dropped_or_kept(fate: str, count: int) -> None:
    """A PUT without Health Gorilla's identifiers removes them, or with the switch keeps them."""
    with HealthGorillaSandbox(switches=Switches().but(omitted_patient_identifiers=fate)) as hg:
        caller = Caller(hg)
        caller.send("PUT", f"Patient/{register(caller)}", patient())
        assert len(hg.patients()[0]["identifier"]) == count


def test_search_by_every_declared_parameter(hg: HealthGorillaSandbox, caller: Caller) -> None:
    """Each selects one of two patients; gender also accepts F and M."""
    first = register(caller)
    other = {"name": [{"family": "Birch", "given": ["Tam"], "suffix": ["Jr"]}], "gender": "male"}
    second = register(caller, "p-2", **other, birthDate="1980-01-01", address=[{"postalCode": "10001"}])

    def ids(**params: str) -> list[str]:
        return [e["resource"]["id"] for e in caller.get("Patient", **params).get("entry", [])]

    assert ids(identifier="https://clinic.example|p-1") == ids(identifier="p-1") == [first]
    assert ids(family="fern") == ids(given="rue") == ids(name="opal") == ids(**{"family:exact": "Fernwood"}) == [first]
    assert ids(**{"family:exact": "fernwood"}) == ids(identifier="https://elsewhere.example|p-1") == []
    assert ids(birthdate="1990-06-08") == ids(birthdate="ge1985") == ids(birthdate="gt1990-06-07") == [first]
    assert ids(birthdate="le1980") == ids(birthdate="lt1990-06-08") == [second]
    assert ids(gender="F") == ids(gender="female") == [first]
    assert ids(suffix="jr") == ids(**{"address-postalcode": "10001"}) == [second]
    assert ids(_lastUpdated="gt2020-01-01") == [first, second]


@pytest.mark.parametrize("query", ["telecom=1", "address=x", "_id=1", "family:contains=x", "requestId=1"])
def test_unknown_parameters_are_refused(caller: Caller, query: str) -> None:
    """400 with the real one's words, names only."""
    answer = caller.send("GET", f"Patient?{query}")
    assert answer.status_code == 400
    assert "does not know how to handle GET operation[Patient]" in answer.text


def test_there_is_no_patch_and_no_delete(hg: HealthGorillaSandbox, caller: Caller) -> None:
    """405 for both; an unknown patient is 404."""
    path = f"Patient/{register(caller)}"
    assert caller.send("PATCH", path, []).status_code == caller.send("DELETE", path).status_code == 405
    assert caller.send("GET", "Patient/unknown").status_code == 404
    assert len(hg.patients()) == 1
