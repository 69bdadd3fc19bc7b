"""Laws of merging identifiers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot_layer.fhir.identifiers import DISPLAYS, V2_0203_SYSTEMS, is_npi, key, merge
from bot_layer.fhir.json import Json

pytestmark = pytest.mark.no_cover  # that each way is taken, tests/core shows

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
    """The target's identifiers stand first, in their order, each at least with what it had."""
    merged = iter(merge(target, source))
    first_of_each = [
        identifier
        for place, identifier in enumerate(target)
        if key(identifier) is None or key(identifier) not in [key(earlier) for earlier in target[:place]]
    ]
    for identifier in first_of_each:
        assert any(identifier.items() <= found.items() for found in merged)


@given(lists, lists)
def test_no_key_stands_twice(target: list[Json], source: list[Json]) -> None:
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
def test_it_does_not_matter_what_is_merged_first(a: list[Json], b: list[Json], c: list[Json]) -> None:
    """merge(a, merge(b, c)) = merge(merge(a, b), c) as sets."""
    assert as_set(merge(a, merge(b, c))) == as_set(merge(merge(a, b), c))


@given(st.integers(0, 10**9 - 1), st.integers(1, 9))
def test_exactly_one_check_digit_makes_an_npi(number: int, wrong: int) -> None:
    """Of the ten numbers that differ only in the last digit, one is an NPI."""
    valid = [digit for digit in range(10) if is_npi(f"{number:09d}{digit}")]
    assert len(valid) == 1
    assert not is_npi(f"{number:09d}{(valid[0] + wrong) % 10}")
