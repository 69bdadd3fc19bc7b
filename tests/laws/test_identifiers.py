"""Laws of merging identifiers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot_layer.fhir.identifiers import DISPLAYS, V2_0203_SYSTEMS, is_npi, key, merge, npis
from bot_layer.fhir.json import Json

pytestmark = pytest.mark.no_cover  # tests/fhir shows that each way is taken

systems = st.sampled_from(["https://example.org/a", "https://example.org/b", "https://www.healthgorilla.com"])
values = st.sampled_from(["1", "2", "3", " 1 ", ""])
laboratories = st.sampled_from(["Organization/f-1", "Organization/f-2"])


@st.composite
def types(draw: st.DrawFn) -> Json:
    code = draw(st.sampled_from(["AN", "PRN", "NPI", "MR"]))
    coded = {"coding": [{"system": draw(st.sampled_from(sorted(V2_0203_SYSTEMS))), "code": code}]}
    return draw(st.sampled_from([coded, {"text": DISPLAYS.get(code, "Other")}, {**coded, "text": "any"}]))


@st.composite
def some_identifiers(draw: st.DrawFn) -> Json:
    elements: dict[str, st.SearchStrategy[Any]] = {
        "type": types(),
        "system": systems,
        "value": values,
        "assigner": st.builds(lambda reference: {"reference": reference}, laboratories),
        "use": st.sampled_from(["usual", "official"]),
    }
    return draw(st.fixed_dictionaries({}, optional=elements))


lists = st.lists(some_identifiers(), max_size=6)


def as_set(identifiers: list[Json]) -> set[str]:
    return {repr(sorted(identifier.items(), key=repr)) for identifier in identifiers}


@given(lists, lists)
def test_merging_twice_is_merging_once(target: list[Json], source: list[Json]) -> None:
    """merge(merge(t, s), s) = merge(t, s)."""
    once = merge(target, source)
    assert merge(once, source) == once


@given(lists, lists)
def test_nothing_of_the_target_is_lost_or_reordered(target: list[Json], source: list[Json]) -> None:
    """The target's identifiers come first, in order, each with at least its own elements."""
    merged = iter(merge(target, source))
    first_of_each = [
        identifier
        for place, identifier in enumerate(target)
        if key(identifier) is None or key(identifier) not in [key(earlier) for earlier in target[:place]]
    ]
    for identifier in first_of_each:
        assert any(identifier.items() <= found.items() for found in merged)


@given(lists, lists)
def test_no_key_appears_twice(target: list[Json], source: list[Json]) -> None:
    """Each key occurs once."""
    keys = [key(identifier) for identifier in merge(target, source) if key(identifier)]
    assert len(keys) == len(set(keys))


@given(lists, lists)
def test_no_key_of_either_is_lost(target: list[Json], source: list[Json]) -> None:
    """Each key of target and source is a key of the result, and the result has no others."""
    expected = {key(identifier) for identifier in (*target, *source)}
    assert {key(identifier) for identifier in merge(target, source)} == expected


@given(lists, lists)
def test_identifiers_without_a_value_are_never_collapsed(target: list[Json], source: list[Json]) -> None:
    """Of each there are as many as in the side that has more."""
    merged = merge(target, source)
    for identifier in (*target, *source):
        if key(identifier) is None:
            assert merged.count(identifier) == max(target.count(identifier), source.count(identifier))


@given(lists, lists)
def test_the_arguments_are_left_as_they_are(target: list[Json], source: list[Json]) -> None:
    """merge returns new values and changes none."""
    before = copy.deepcopy((target, source))
    merge(target, source)
    assert (target, source) == before


@given(lists, lists, lists)
def test_the_order_of_merging_does_not_matter(a: list[Json], b: list[Json], c: list[Json]) -> None:
    """merge(a, merge(b, c)) = merge(merge(a, b), c) as sets."""
    assert as_set(merge(a, merge(b, c))) == as_set(merge(merge(a, b), c))


@given(st.integers(0, 10**9 - 1), st.integers(1, 9))
def test_exactly_one_check_digit_makes_an_npi(number: int, wrong: int) -> None:
    """Of the ten numbers that differ only in the last digit, one is an NPI."""
    valid = [digit for digit in range(10) if is_npi(f"{number:09d}{digit}")]
    assert len(valid) == 1
    assert not is_npi(f"{number:09d}{(valid[0] + wrong) % 10}")


# Two identifiers that differ in one respect, and whether they are the same, by construction.
V2 = "http://terminology.hl7.org/CodeSystem/v2-0203"
KINDS = st.sampled_from(["AN", "PRN", "MR", "DL"])
VALUES = st.text("0123456789abcDEF-", min_size=1, max_size=8)
SYSTEMS = st.sampled_from(["https://a.example", "https://b.example", "urn:oid:1.2.3"])
FACILITIES = st.sampled_from(["f-1", "f-2", "f-3"])


def plain(code: str, value: str, system: str = "", facility: str = "") -> Json:
    """An identifier of a type, with what else is given."""
    found: Json = {"type": {"coding": [{"system": V2, "code": code}]}, "value": value}
    if system:
        found["system"] = system
    return {**found, "assigner": {"reference": f"Organization/{facility}"}} if facility else found


@given(KINDS, KINDS, VALUES, st.just("") | SYSTEMS, st.just("") | FACILITIES)
def test_the_type_is_a_part_of_the_key(one: str, other: str, value: str, system: str, facility: str) -> None:
    """An account number and a record number of the same digits are two identifiers."""
    pair = [plain(code, value, system, facility) for code in (one, other)]
    assert len(merge(pair[:1], pair[1:])) == (1 if one == other else 2)


@given(KINDS, VALUES, SYSTEMS, SYSTEMS, st.just("") | FACILITIES)
def test_the_system_is_a_part_of_the_key_unless_the_type_has_none(
    code: str, value: str, one: str, other: str, facility: str
) -> None:
    """Account and provider numbers belong to their assigner, whatever system they have."""
    pair = [plain(code, value, system, facility) for system in (one, other)]
    assert len(merge(pair[:1], pair[1:])) == (1 if one == other or code in ("AN", "PRN") else 2)


@given(KINDS, VALUES, FACILITIES, FACILITIES)
def test_the_assigner_is_a_part_of_the_key(code: str, value: str, one: str, other: str) -> None:
    """The same number at two laboratories is two numbers."""
    pair = [plain(code, value, facility=facility) for facility in (one, other)]
    assert len(merge(pair[:1], pair[1:])) == (1 if one == other else 2)


FORMS = (
    "Organization/{}",
    "Organization/{}/_history/7",
    "https://x.example/R4/Organization/{}",
    "x/Organization/{}/_history/1",
)


@given(KINDS, VALUES, VALUES, FACILITIES, st.tuples(st.sampled_from(FORMS), st.sampled_from(FORMS)))
def test_the_form_of_a_reference_and_the_white_space_of_a_value_are_no_part_of_the_key(
    code: str, value: str, other_value: str, facility: str, forms: tuple[str, str]
) -> None:
    """Relative, absolute, of a version; with spaces around it. Another value is another identifier."""
    first, second, third = (
        {**plain(code, text), "assigner": {"reference": form.format(facility)}}
        for form, text in zip((*forms, forms[1]), (value, f" {value}\n", other_value), strict=True)
    )
    assert len(merge([first], [second])) == 1
    assert len(merge([first], [third])) == (1 if value == other_value else 2)


NPIS: st.SearchStrategy[Json] = st.sampled_from(
    [
        {"system": "http://hl7.org/fhir/sid/us-npi"},
        {"system": "urn:oid:2.16.840.1.113883.4.6", "type": {"coding": [{"system": V2, "code": "PRN"}]}},
        {"type": {"coding": [{"system": "https://clinic.example", "code": "x"}, {"system": V2, "code": "NPI"}]}},
        {
            "type": {"coding": [{"system": V2, "code": "XX"}, {"system": V2, "code": "NPI"}]},
            "system": "https://a.example",
        },
        {"type": {"text": " national Provider identifier"}},
    ]
)


@given(NPIS, NPIS, VALUES, st.sampled_from(["usual", "official", "old"]))
def test_an_npi_is_the_same_in_every_form(one: Json, other: Json, value: str, use: str) -> None:
    """By either system, by a coding among others, by text; one of use old is not the practitioner's any more."""
    pair = [{**one, "value": value}, {**other, "value": value}]
    assert len(merge(pair[:1], pair[1:])) == 1
    assert npis(pair) == [value]
    assert npis([{**each, "use": use} for each in pair]) == ([] if use == "old" else [value])


@given(VALUES, FACILITIES, st.booleans())
def test_the_target_keeps_its_elements_and_gains_what_it_lacks(value: str, facility: str, gains: bool) -> None:
    """Where both have a key."""
    target = {**plain("AN", value, "https://a.example", facility), "use": "official"}
    source = {**plain("AN", value, "https://b.example", facility), **({"period": {"start": "2020"}} if gains else {})}
    assert merge([target], [source]) == [{**target, **({"period": {"start": "2020"}} if gains else {})}]


@given(st.integers(0, 10**10 - 1))
def test_the_check_digit_is_that_of_a_card_number(number: int) -> None:
    """Luhn over 80840 and the digits, computed by hand from the right; other lengths are no NPI."""
    text = f"{number:010d}"
    total = 0
    for place, digit in enumerate(reversed("80840" + text)):
        doubled = int(digit) * 2 if place % 2 else int(digit)
        total += doubled // 10 + doubled % 10
    assert is_npi(text) is (total % 10 == 0)
    assert not is_npi(text[1:])
    assert not is_npi(f"{text}0")
