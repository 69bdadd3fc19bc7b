"""Two people with one name and birth date: which is registered, and how a person confirms that they are two."""

from __future__ import annotations

from typing import Any

import pytest

from bot_layer.fhir import parameters
from bot_layer.fhir.json import Json
from bots.register_patient import handler
from tests.bots.patient_world import ADDRESS, MRN, Clinic, action, clinic, codes, person

ELSEWHERE: Json = {**ADDRESS, "line": ["9 Oak Lane"], "city": "Elm", "state": "NV", "postalCode": "89001"}


def two(w: Clinic, first: Json | None = None, second: Json | None = None) -> tuple[Json, Json]:
    """Two Patients of one name and birth date, the first of them registered."""
    one, other = w.server.create(person(**(first or {}))), w.server.create(person(**(second or {})))
    assert action(handler(w.asked(one))) == "registered"
    return one, other


def not_same(w: Clinic, patient: Json, other: Json, **flags: bool) -> Json:
    """A call that says that the two are two people."""
    entries = [parameters.boolean(name, value) for name, value in flags.items()]
    return w.event(
        parameters.build(
            parameters.reference("patient", f"Patient/{patient['id']}"),
            parameters.reference("notSameAs", f"Patient/{other['id']}"),
            *entries,
        )
    )


@pytest.mark.parametrize(
    ("first", "second", "plain", "forced"),
    [
        # Two stable attributes distinguish two people without a person's help.
        (
            {"name": [{"family": "Sommer", "given": ["Kim", "Lee"]}], "gender": "male"},
            {"name": [{"family": "Sommer", "given": ["Kim", "Ada"]}], "gender": "female"},
            "registered",
            "",
        ),
        (
            {"name": [{"family": "Sommer", "given": ["Kim", "Lee"], "suffix": ["Jr."]}]},
            {"name": [{"family": "Sommer", "given": ["Kim", "Ada"], "suffix": ["III"]}]},
            "registered",
            "",
        ),
        # One mark needs a person.
        ({"gender": "male"}, {}, "refused", "registered"),
        ({}, {"address": [ELSEWHERE]}, "refused", "registered"),
        ({}, {"telecom": [{"system": "phone", "value": "702-555-0111"}]}, "refused", "registered"),
        ({"multipleBirthInteger": 1}, {"multipleBirthInteger": 2}, "refused", "registered"),
        ({}, {"multipleBirthBoolean": True}, "refused", "registered"),
        # An initial fits its name, and a copy differs in nothing.
        (
            {"name": [{"family": "Sommer", "given": ["Kim", "Lee"]}]},
            {"name": [{"family": "SOMMER", "given": ["kim", "L."]}]},
            "refused",
            "refused",
        ),
        ({}, {}, "refused", "refused"),
    ],
)
def test_marks_distinguish_two_people(first: Json, second: Json, plain: str, forced: str) -> None:
    with clinic() as w:
        _, other = two(w, first, second)
        answer = handler(w.asked(other))
        assert action(answer) == plain
        if plain == "refused":
            assert codes(answer) == ["registered-as-another"]
            assert action(handler(w.asked(other, force=True))) == forced
        assert len(w.gorilla.patients()) == (2 if "registered" in (plain, forced) else 1)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("Sommer", ["Ida May"]), ("SOMMER", ["IDA", "MAY"])),
        (("O'Dell", ["Pat"]), ("ODELL", ["PAT"])),
        (("Lang-Roth", ["Ida"]), ("Lang Roth", ["Ida"])),
        (("Pe\u00f1a", ["Jos\u00e9"]), ("PENA", ["JOSE"])),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_a_copy_in_another_spelling_is_found(
    first: tuple[str, list[str]], second: tuple[str, list[str]], turned: bool
) -> None:
    """Whichever of the two spellings the index has."""
    given = [{"name": [{"family": family, "given": names}]} for family, names in (first, second)]
    with clinic() as w:
        _, other = two(w, *(reversed(given) if turned else given))
        assert codes(handler(w.asked(other))) == ["registered-as-another"]
        assert codes(handler(w.asked(other, force=True))) == ["registered-as-another"]


@pytest.mark.parametrize("form", ["the resource", "absolute", "relative"])
def test_the_other_person_is_named_in_any_form(form: str) -> None:
    with clinic() as w:
        one, other = two(w)
        base = w.server.client.fhir_base_url
        entry = {
            "the resource": parameters.resource("notSameAs", one),
            "absolute": parameters.reference("notSameAs", f"{base}Patient/{one['id']}"),
            "relative": parameters.reference("notSameAs", f"Patient/{one['id']}"),
        }[form]
        asked = parameters.build(parameters.reference("patient", f"Patient/{other['id']}"), entry)
        assert action(handler(w.event(asked))) == "registered"


@pytest.mark.parametrize("wrong", ["Practitioner/1", "", "https://elsewhere.example/fhir/R4/Patient/1"])
def test_the_other_person_must_be_a_patient_of_this_server(wrong: str) -> None:
    with clinic() as w:
        one = w.server.create(person())
        entries = parameters.reference("patient", f"Patient/{one['id']}"), parameters.reference("notSameAs", wrong)
        answer = handler(w.event(parameters.build(*entries)))
        assert codes(answer) == ["wrong-target"]
        assert w.gorilla.patients() == []


@pytest.mark.parametrize("identifier_system", ["", MRN])
def test_two_people_marked_as_different_stay_different(identifier_system: str) -> None:
    """For the call itself, and for later events of either of them, but not for a third namesake."""
    with clinic(FEDERATED_PATIENT_IDENTIFIER_SYSTEM=identifier_system) as w:
        numbered = [{"identifier": [{"system": MRN, "value": f"R-{place}"}]} for place in range(3)]
        one, other = two(w, *numbered[:2])
        answer = handler(not_same(w, other, one))
        assert action(answer) == "registered"
        assert [action(handler(w.subscribed(each))) for each in (one, other)] == ["unchanged", "unchanged"]
        third = w.server.create(person(**numbered[2]))
        assert codes(handler(w.subscribed(third))) == ["registered-as-another"]
        (listed,) = w.server.search("List", [("code", "doNotMatch")])
        assert listed["subject"] == {"reference": f"Patient/{other['id']}"}
        assert action(handler(not_same(w, third, one))) == "refused"
        assert action(handler(not_same(w, third, other))) == "registered"
        assert len(w.gorilla.patients()) == 3


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("code", [{"coding": [{"system": "http://example.org/listType", "code": "doNotMatch"}]}])
def test_medplums_own_list_counts_in_either_direction(turned: bool, code: Json) -> None:
    """As Medplum's deduplication bots write it; an entry that was deleted does not count, nor does a retired List."""
    with clinic() as w:
        one, other = two(w)
        subject, item = (one, other) if turned else (other, one)
        entry: Json = {"item": {"reference": f"Patient/{item['id']}"}}
        made: Json = {
            "resourceType": "List",
            "status": "current",
            "mode": "working",
            "code": code,
            "subject": {"reference": f"Patient/{subject['id']}"},
            "entry": [{**entry, "deleted": True}],
        }
        stored = w.server.create({**made, "mode": "changes"})
        assert action(handler(w.asked(other))) == "refused"
        w.server.change(f"List/{stored['id']}", lambda now: {**now, "entry": [entry], "status": "retired"})
        assert action(handler(w.asked(other))) == "refused"
        w.server.change(f"List/{stored['id']}", lambda now: {**now, "status": "current"})
        assert action(handler(w.asked(other))) == "registered"


def test_a_preview_keeps_nothing() -> None:
    with clinic() as w:
        one, other = two(w)
        assert action(handler(not_same(w, other, one, preview=True))) == "registered"
        assert w.server.search("List", [("_count", "5")]) == []
        assert action(handler(w.asked(other))) == "refused"


def test_not_same_as_cannot_name_the_patient_itself() -> None:
    with clinic() as w:
        one, other = two(w)
        assert codes(handler(not_same(w, one, one))) == ["same-patient"]
        link = [{"type": "replaced-by", "other": {"reference": f"Patient/{one['id']}"}}]
        w.server.change(f"Patient/{other['id']}", lambda now: {**now, "link": link})
        assert codes(handler(not_same(w, one, other))) == ["same-patient"]


def test_a_namesake_who_has_no_id_of_this_clinic_is_adopted() -> None:
    """The index knows the patient from elsewhere: no second one is created unless data contradict."""
    with clinic() as w:
        stored = w.server.create(person())
        handler(w.asked(stored))
        foreign: Any = w.gorilla.state.patients
        for existing in foreign.values():
            existing["identifier"] = [
                each for each in existing["identifier"] if each.get("system") == "https://www.healthgorilla.com"
            ]
        w.server.change(f"Patient/{stored['id']}", lambda now: {**now, "active": False})
        again = w.server.create(person())
        assert action(handler(w.asked(again))) == "updated"
        assert len(w.gorilla.patients()) == 1
