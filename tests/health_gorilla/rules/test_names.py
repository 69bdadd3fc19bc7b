"""The name rule of the guide "User Management", example by example."""

from __future__ import annotations

import pytest

from bot_layer.fhir.json import Json
from bot_layer.health_gorilla.rules.names import NameMatch, comparable
from tests.health_gorilla.clinicians import match, official


def name(family: str, *given: str, **more: str) -> Json:
    return {"family": family, "given": list(given), **more}


@pytest.mark.parametrize(
    ("medplum", "directory", "expected"),
    [
        (name("Gorilla", "Joe"), name("Gorilla", "Joe"), NameMatch.MATCH),
        (name(" gORILLA ", "JOE"), name("Gorilla", "Joe"), NameMatch.MATCH),
        (name("Gorilla", "Joe", "Kong"), name("Gorilla", "Joe"), NameMatch.MATCH),
        (name("Gorilla", "Joe Kong"), name("Gorilla", "Joe"), NameMatch.MATCH),
        (name("Gorilla", "Kong", "Joe"), name("Gorilla", "Joe"), NameMatch.MATCH),
        (name("Gorilla", "Mary", "Ann"), name("Gorilla", "Mary Ann"), NameMatch.MATCH),
        (name("Gorilla", "Mary  Ann", "Lee"), name("Gorilla", "Mary Ann"), NameMatch.MATCH),
        (name("Gorilla", "Mary"), name("Gorilla", "Mary Ann"), NameMatch.GIVEN_DIFFERS),
        (name("Gorilla", "Jo"), name("Gorilla", "Joe"), NameMatch.GIVEN_DIFFERS),
        (name("Gorilla", "Joe"), name("Gorilla", "Kong", "Joe"), NameMatch.GIVEN_DIFFERS),
        (name("Gorilla, DNP, MSN, APRN", "Joe"), name("Gorilla", "Joe"), NameMatch.FAMILY_DIFFERS),
        (name("Goril la", "Joe"), name("Gorilla", "Joe"), NameMatch.FAMILY_DIFFERS),
        (name("de  la\tVega", "Mateo"), name("De La Vega", "Mateo"), NameMatch.MATCH),
        (name("Mu\u0308ller", "Jo\u0308rg"), name("M\u00fcller", "J\u00f6rg"), NameMatch.MATCH),
        (name("STRASSE", "Jo"), name("Straße", "Jo"), NameMatch.MATCH),
        (name("Muller", "Jo"), name("Müller", "Jo"), NameMatch.FAMILY_DIFFERS),
    ],
)
def test_family_whole_and_first_given_by_word(medplum: Json, directory: Json, expected: NameMatch) -> None:
    """The family is equal as a whole; the directory's first given name is Medplum's whole or one word of it."""
    assert match([medplum], directory) is expected


def test_any_name_may_match() -> None:
    """A maiden name that the directory still has is found among several."""
    names = [name("Married", "Ann", use="official"), name("Maiden", "Ann", use="maiden")]
    assert match(names, name("Maiden", "Ann")) is NameMatch.MATCH


def test_the_nearest_mismatch_is_reported() -> None:
    """With the right family on one name and the right given name on another, the given name is what differs."""
    names = [name("Gorilla", "Ann"), name("Other", "Joe")]
    assert match(names, name("Gorilla", "Joe")) is NameMatch.GIVEN_DIFFERS


@pytest.mark.parametrize("broken", [{"family": 7, "given": ["Joe"]}, {"family": "Gorilla", "given": "Joe"}])
def test_a_name_of_the_wrong_type_never_matches(broken: Json) -> None:
    """A value that is no text counts as missing."""
    assert match([broken], name("Gorilla", "Joe")) is NameMatch.MISSING
    assert comparable(None) == ""


def test_the_official_name_of_the_directory_counts() -> None:
    """The official name, else the first, else none."""
    assert official([name("A", "a"), name("B", "b", use="official")]) == name("B", "b", use="official")
    assert official([name("A", "a"), name("B", "b")]) == name("A", "a")
    assert official([]) == {}


def test_a_null_among_the_given_names_is_passed_over() -> None:
    """FHIR writes null where a word has only an extension."""
    theirs = {"family": "Gorilla", "given": ["Mary Ann"]}
    assert match([{"family": "Gorilla", "given": ["Mary", None, "Ann"]}], theirs) is NameMatch.MATCH


@pytest.mark.parametrize(
    ("former", "current"),
    [
        ({"use": "maiden"}, {}),
        ({"use": "old"}, {"use": "nickname"}),
        ({"period": {"end": "2019-03"}}, {"use": "usual"}),
        ({"use": "official", "period": {"start": "2001", "end": "2019"}}, {"use": "usual"}),
        ({"use": "nickname"}, {}),
        ({}, {"use": "usual"}),
        # By the clock of the tests, in June 2026.
        ({"use": "official", "period": {"start": "2026-07"}}, {"use": "usual", "period": {"end": "2026-06"}}),
    ],
)
def test_a_former_name_of_the_directory_is_not_the_first_choice(former: Json, current: Json) -> None:
    """At any position in the list; if it is the only name, it is used."""
    before, now = name("Before", "Ann", **former), name("Now", "Ann", **current)
    assert official([before, now]) == official([now, before]) == now
    assert official([before]) == before
    assert official("no list") == {}


def test_a_complete_name_takes_precedence_over_an_incomplete_one() -> None:
    """But a former name never replaces the current one."""
    bare: Json = {"use": "official", "text": "Dr. A. Now"}
    assert official([bare, name("Now", "Ann")]) == name("Now", "Ann")
    assert official([bare, name("Before", "Ann", use="old")]) == bare
