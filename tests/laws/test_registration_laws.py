"""Laws of registration: a written record needs no second write, and none of Health Gorilla's data are lost."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot_layer.errors import InputError
from bot_layer.fhir import demographics
from bot_layer.fhir.identifiers import HEALTH_GORILLA_SYSTEM
from bot_layer.fhir.json import Json
from bot_layer.patient_registration.rules.registration import Context, Create, Found, NothingToDo, Update
from tests.people import POLICY, build, found, plan, read

pytestmark = pytest.mark.no_cover  # that each way is taken, tests/core shows

# Letters whose case and composition are tricky (sharp s, dotted I, a combining accent), and the spaces between.
_ALPHABET = "aZé\u0301ßİ\u0131ǅﬁ9-' \t\u00a0"
_TEXT = st.text(_ALPHABET, max_size=12)
_USES = st.sampled_from(["official", "usual", "old", "maiden", "home", "work", "temp", ""])
_NAME = st.fixed_dictionaries(
    {},
    optional={
        "use": _USES,
        "family": _TEXT,
        "given": st.lists(_TEXT, max_size=3),
        "suffix": st.lists(_TEXT, max_size=1),
    },
)
_ADDRESS = st.fixed_dictionaries(
    {},
    optional={
        "use": _USES,
        "line": st.lists(_TEXT, max_size=2),
        "city": _TEXT,
        "state": _TEXT,
        "postalCode": _TEXT,
        "country": _TEXT,
        "period": st.just({"end": "2020-01-01"}),
    },
)
_POINT = st.fixed_dictionaries(
    {},
    optional={
        "system": st.sampled_from(["phone", "email", "fax"]),
        "value": st.one_of(
            _TEXT,
            st.from_regex(r"[0-9]{3}-[0-9]{4}", fullmatch=True),
            st.from_regex(r"[a-z]{1,3}@[a-z]{1,3}\.example", fullmatch=True),
        ),
        "use": _USES,
    },
)
_PATIENTS: st.SearchStrategy[Json] = st.fixed_dictionaries(
    {"resourceType": st.just("Patient")},
    optional={
        "id": st.uuids().map(str),
        "name": st.lists(_NAME, max_size=3),
        "address": st.lists(_ADDRESS, max_size=3),
        "telecom": st.lists(_POINT, max_size=4),
        "gender": st.sampled_from(["male", "female", "other", ""]),
        "birthDate": st.one_of(st.dates().map(str), _TEXT),
    },
)
_WORD = st.text("aZéßİ\u0131ǅﬁ", min_size=1, max_size=8)
_COMPLETE: st.SearchStrategy[Json] = st.builds(
    lambda patient, family, given, line, city, born, gender, identifier: {
        **patient,
        "id": str(identifier),
        "name": [{"family": family, "given": [given]}, *patient.get("name", [])],
        "address": [{"line": [line], "city": city, "state": "CA", "postalCode": "90001"}, *patient.get("address", [])],
        "birthDate": str(born),
        "gender": gender,
    },
    _PATIENTS, _WORD, _WORD, _WORD, _WORD, st.dates(), st.sampled_from(["male", "female"]), st.uuids(),
)  # fmt: skip


def held_after(answer: Create | Update) -> Json:
    """Health Gorilla's record after the plan was carried out."""
    own = {"system": HEALTH_GORILLA_SYSTEM, "value": "hg-1"}
    if isinstance(answer, Create):
        return {**answer.body, "id": "hg-1", "identifier": [own, *answer.body["identifier"]]}
    return answer.body


@given(_PATIENTS)
def test_a_refusal_names_exactly_what_is_missing(patient: Json) -> None:
    """A patient is refused for missing elements, or is complete and can be built; nothing raises in between."""
    answer = plan(patient, Found(), POLICY)
    assert isinstance(answer, Create | InputError)
    assert isinstance(answer, InputError) == bool(read(patient).missing(POLICY))


@given(_COMPLETE)
def test_a_written_registration_needs_no_update(patient: Json) -> None:
    """plan(after create) is nothing to do."""
    before = copy.deepcopy(patient)
    answer = plan(patient, Found(), POLICY)
    assert isinstance(answer, Create)
    assert plan(patient, found(by_identifier=[held_after(answer)]), POLICY) == NothingToDo("hg-1", patient["id"])
    assert patient == before


@given(_COMPLETE, _COMPLETE)
def test_an_update_reaches_rest_and_keeps_their_identifiers(before: Json, after: Json) -> None:
    """plan(after update) is nothing to do, and no identifier of theirs is lost."""
    after = {**after, "id": before["id"]}
    stored = held_after(Create(build(before, POLICY)))
    answer = plan(after, found(by_identifier=[stored]), POLICY, Context(force=True))
    if isinstance(answer, Update):
        assert stored["identifier"][0] in answer.body["identifier"]
        stored = held_after(answer)
    assert plan(after, found(by_identifier=[stored]), POLICY) == NothingToDo("hg-1", before["id"])


@given(_COMPLETE)
def test_nothing_empty_is_sent(patient: Json) -> None:
    """The payload contains no empty text, list or object."""

    def hollow(value: object) -> bool:
        if isinstance(value, dict):
            return not value or any(map(hollow, value.values()))
        return not value or any(map(hollow, value)) if isinstance(value, list) else value in ("", None)

    assert not hollow(build(patient, POLICY))


@given(_TEXT)
def test_folding_twice_is_folding_once(text: str) -> None:
    """Comparison has one normal form."""
    assert demographics.folded(demographics.folded(text)) == demographics.folded(text)
