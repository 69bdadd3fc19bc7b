"""Who may be one person: what two records share, and what contradicts it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot_layer.fhir.demographics import Demographics
from bot_layer.fhir.json import Json
from bot_layer.patient_registration.rules import same_person
from bot_layer.patient_registration.rules.same_person import Differences
from tests.people import NOW, patient

WORD = st.text("abcé", min_size=1, max_size=4)
PEOPLE = st.builds(
    lambda family, given, born, gender: patient(
        name=[{"family": family, "given": given}], birthDate=born, gender=gender
    ),
    WORD,
    st.lists(WORD, min_size=1, max_size=3),
    st.sampled_from(["1980-02-29", "1980-02-28", "2001-05-06"]),
    st.sampled_from(["male", "female", "other", "unknown"]),
)


def differences(one: Json, other: Json) -> Differences:
    return same_person.differences(Demographics.read(one, NOW), Demographics.read(other, NOW))


def is_alike(one: Json, other: Json) -> bool:
    return same_person.is_alike(Demographics.read(one, NOW), Demographics.read(other, NOW))


def is_somebody_else(one: Json, other: Json) -> bool:
    return same_person.is_somebody_else(Demographics.read(one, NOW), Demographics.read(other, NOW))


def named(*given: str, **changes: Any) -> Json:
    return patient(name=[{"family": "Sommer", "given": list(given)}], **changes)


@pytest.mark.parametrize(
    ("one", "other", "strong", "weak"),
    [
        (named("Kim", "Lee"), named("Kim", "Ada"), {"middle name"}, set()),
        (named("Kim", "Lee"), named("Kim", "L."), set(), set()),
        (named("Kim", "Lee", "Ann"), named("Kim", "L", "B"), {"middle name"}, set()),
        (named("Kim", "Lee"), named("Kim"), set(), set()),
        (named("Kim", gender="male"), named("Kim", gender="female"), {"gender"}, set()),
        (named("Kim", gender="male"), named("Kim", gender="unknown"), set(), set()),
        (named("Kim", multipleBirthInteger=1), named("Kim", multipleBirthInteger=2), {"order of birth"}, set()),
        (named("Kim", multipleBirthInteger=1), named("Kim", multipleBirthBoolean=True), set(), set()),
        (named("Kim", multipleBirthBoolean=True), named("Kim"), set(), {"twin"}),
        (named("Kim", address=None), named("Kim"), set(), set()),
        (named("Kim", telecom=None), named("Kim"), set(), set()),
        (
            named("Kim", telecom=[{"system": "phone", "value": "tel:+1 310 555 0142"}]),
            named("Kim", telecom=[{"system": "phone", "value": "310-555-0142 ext 4"}]),
            set(),
            set(),
        ),
        (named("Kim", telecom=[{"system": "phone", "value": "310-555-0143"}]), named("Kim"), set(), {"phone"}),
    ],
)
def test_differences_that_contradict_the_same_person(one: Json, other: Json, strong: set[str], weak: set[str]) -> None:
    for left, right in ((one, other), (other, one)):
        found = differences(left, right)
        assert (set(found.strong), set(found.weak)) == (strong, weak)


@given(PEOPLE, PEOPLE)
def test_the_comparison_has_no_direction(one: Json, other: Json) -> None:
    assert is_alike(one, other) == is_alike(other, one)
    assert is_somebody_else(one, other) == is_somebody_else(other, one)
    assert differences(one, other) == differences(other, one)


@given(PEOPLE)
def test_a_copy_is_the_same_person(one: Json) -> None:
    assert is_alike(one, dict(one))
    assert not is_somebody_else(one, dict(one))
    assert not differences(one, dict(one)).strong | differences(one, dict(one)).weak


@given(PEOPLE, PEOPLE)
def test_a_similar_record_is_not_another_person(one: Json, other: Json) -> None:
    assert not (is_alike(one, other) and is_somebody_else(one, other))


@given(PEOPLE, st.sampled_from(["name", "birthDate"]))
def test_a_missing_value_contradicts_nothing(one: Json, silent: str) -> None:
    """A message without a name, or without birth date and sex, may be about any person."""
    other = patient(name=[{"family": "zzz", "given": ["zzz"]}], birthDate="1900-01-01", gender=one["gender"])
    assert is_somebody_else(one, other)
    assert not is_somebody_else({name: value for name, value in one.items() if name != silent}, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("Sommer", ["Ida May"]), ("Sommer", ["Ida", "May"])),
        (("Sommer", ["Ida-May"]), ("SOMMER", ["IDA MAY"])),
        (("Sommer", ["Annemarie"]), ("Sommer", ["Anne", "Marie"])),
        (("O'Dell", ["Ida"]), ("ODELL", ["IDA"])),
        (("O\u2019Dell", ["Ida"]), ("O'Dell", ["Ida"])),
        (("Pe\u00f1a", ["Jos\u00e9"]), ("PENA", ["JOSE"])),
        (("M\u00fcller", ["J\u00f6rg"]), ("Mueller", ["J\u00f6rg"])),
        (("S\u00f8rensen", ["Ida"]), ("Sorensen", ["Ida"])),
        (("De La Cruz", ["Ida"]), ("Delacruz", ["Ida"])),
        (("Smith-Jones", ["Ida"]), ("Smith Jones", ["Ida"])),
        (("Pen\u0303a", ["Ida"]), ("Pe\u00f1a", ["Ida"])),
    ],
)
def test_a_name_in_another_spelling_is_the_same_name(one: tuple[str, list[str]], other: tuple[str, list[str]]) -> None:
    """One system stores two given names in one text, another sends names without accents and punctuation."""
    first, second = (patient(name=[{"family": family, "given": given}]) for family, given in (one, other))
    assert is_alike(first, second)
    assert is_alike(second, first)
    assert not is_somebody_else(first, second)
    assert not differences(first, second).marks


@pytest.mark.parametrize(
    ("one", "other"),
    [(("Sommer", ["Ida"]), ("Sommer", ["Ida May"])), (("Winter", ["Ida"]), ("Sommer", ["Ida"]))],
)
def test_a_former_name_is_the_same_name(one: tuple[str, list[str]], other: tuple[str, list[str]]) -> None:
    """A copy of a record from before a marriage is found by the former name."""
    married = {"use": "official", "family": "Winter", "given": ["Ida"]}
    now = patient(name=[married, {"use": "maiden", "family": "Sommer", "given": ["Ida", "May"]}])
    assert all(is_alike(now, patient(name=[{"family": family, "given": given}])) for family, given in (one, other))


def test_an_unknown_day_of_birth_contradicts_no_day() -> None:
    """An HL7 message may contain only the year."""
    other = patient(name=[{"family": "Winter", "given": ["Bo"]}], birthDate="1980")
    assert not is_somebody_else(patient(), other)
    assert is_somebody_else(patient(), {**other, "birthDate": "1981"})


@pytest.mark.parametrize(
    ("name", "gender", "contradicts"),
    [
        ({"family": "Sommer", "given": ["Karl"]}, "male", False),
        ({"family": "Winter", "given": ["Anna"]}, "male", False),
        ({"family": "Winter", "given": ["Karl"]}, "female", False),
        ({"family": "Winter", "given": ["Karl"]}, "male", True),
        ({"family": "Winter", "given": ["Karl"]}, "unknown", False),
    ],
)
def test_on_one_birth_date_only_name_and_sex_together_contradict(name: Json, gender: str, contradicts: bool) -> None:
    """A corrected sex, a marriage, or a wrong first name is a correction; all of them together are another person."""
    assert is_somebody_else(patient(), patient(name=[name], gender=gender)) is contradicts
