"""What identifiers are, by coding or by text."""

from __future__ import annotations

import pytest

from bot_layer.fhir import identifiers
from bot_layer.fhir.json import Json

V2 = "http://terminology.hl7.org/CodeSystem/v2-0203"


@pytest.mark.parametrize(
    ("identifier", "kind"),
    [
        ({"type": {"coding": [{"system": V2, "code": "AN"}]}}, "AN"),
        ({"type": {"coding": [{"system": "http://hl7.org/fhir/v2/0203", "code": "AN"}]}}, "AN"),
        ({"type": {"text": " Account Number "}}, "AN"),
        ({"type": {"text": "Provider Number"}}, "PRN"),
        ({"type": {"coding": [{"system": "https://elsewhere.example", "code": "AN"}], "text": "Account number"}}, "AN"),
        ({"type": {"coding": [{"system": "https://elsewhere.example", "code": "AN"}]}}, ""),
        ({"type": {"coding": [{"system": V2}]}}, ""),
        ({"type": {"text": 7}}, ""),
        ({"type": "text"}, ""),
        ({"system": identifiers.NPI_SYSTEM}, "NPI"),
        ({"system": identifiers.NPI_SYSTEM, "type": {"text": "whatever"}}, "NPI"),
        ({"system": identifiers.NPI_SYSTEM, "type": {"coding": [{"system": V2, "code": "PRN"}]}}, "NPI"),
        ({"type": {"coding": [{"system": V2, "code": "XX"}, {"system": V2, "code": "AN"}]}}, "AN"),
        ({"type": {"coding": [{"system": V2, "code": "XX"}]}}, "XX"),
        ({"type": {"coding": [{"system": V2, "code": "npi"}]}}, "NPI"),
        ({"type": {"coding": [{"code": "17", "display": "National Provider Identifier"}]}}, "NPI"),
        ({"type": {"text": "National Provider Identifier (NPI)"}}, "NPI"),
        ({"type": {"text": "NPI #"}}, "NPI"),
        ({"type": {"text": "Group NPI"}}, ""),
        ({"system": "http://www.hl7.org/fhir/sid/us-npi"}, "NPI"),
        ({"system": "oid:2.16.840.1.113883.4.6"}, "NPI"),
        ({"system": "http://nppes.cms.hhs.gov/"}, "NPI"),
        ({}, ""),
    ],
)
def test_a_kind_is_known_by_coding_or_by_text(identifier: Json, kind: str) -> None:
    """Both systems of v2-0203 count in any coding, and so does the text that Health Gorilla writes without a coding."""
    assert identifiers.kind(identifier) == kind


def test_the_same_account_number_by_coding_and_by_text_is_one() -> None:
    """Medplum's AN is not duplicated if Health Gorilla has its own of the same laboratory and value."""
    theirs = {"type": {"text": "Account number"}, "assigner": {"reference": "Organization/f-1"}, "value": "7"}
    ours = identifiers.account_number("Organization/f-1", " 7 ".strip())
    assert identifiers.merge([theirs], [ours]) == [theirs]


def test_the_same_value_at_another_laboratory_is_another_number() -> None:
    """The key is laboratory and value."""
    one, two = (identifiers.account_number(f"Organization/f-{number}", "7") for number in (1, 2))
    assert identifiers.merge([one], [two]) == [one, two]


def test_a_gap_is_filled_and_nothing_is_overwritten() -> None:
    """The target's identifier keeps its elements, and gets those that it lacks."""
    target = [{"system": "s", "value": "1", "use": "usual"}]
    source = [{"system": "s", "value": "1", "use": "official", "period": {"start": "2020"}}]
    assert identifiers.merge(target, source) == [
        {"system": "s", "value": "1", "use": "usual", "period": {"start": "2020"}}
    ]


def test_identifiers_without_a_value_are_all_different() -> None:
    """The merge keeps as many as the list with more of them has: they cannot be distinguished."""
    bare, other = {"system": "https://example.org/a"}, {"system": "https://example.org/b", "value": " "}
    assert identifiers.merge([bare], [bare, bare, other]) == [bare, bare, other]


def test_an_old_number_is_no_npi() -> None:
    """use old marks a number that is no longer valid, and a blank one is none: it makes no second NPI or id."""
    old = {"system": identifiers.NPI_SYSTEM, "value": "1", "use": "old"}
    now = {"system": identifiers.NPI_SYSTEM, "value": " 2 "}
    blank = {"system": identifiers.NPI_SYSTEM, "value": " "}
    assert identifiers.npis([old, blank, now, now, {"system": identifiers.NPI_SYSTEM}]) == ["2"]
    assert identifiers.values_of([old, blank, now], identifiers.NPI_SYSTEM) == ["2"]


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        ("1234567893", True),
        ("1234567890", False),
        ("123456789", False),
        ("12345678939", False),
        ("123456789x", False),
        ("١٢٣٤٥٦٧٨٩٣", False),
        ("", False),
    ],
)
def test_an_npi_has_ten_ascii_digits_and_the_right_check_digit(value: str, valid: bool) -> None:
    """1234567893 is the example of the standard's own description."""
    assert identifiers.is_npi(value) is valid


def test_identifiers_are_written_with_coding_and_text() -> None:
    """A reader of either one finds it."""
    for built, code in (
        (identifiers.npi("1234567893"), "NPI"),
        (identifiers.account_number("Organization/f-1", "7"), "AN"),
        (identifiers.provider_number("Organization/f-2", "u"), "PRN"),
    ):
        assert built["type"]["coding"][0]["code"] == code
        assert built["type"]["text"] == identifiers.DISPLAYS[code]
    assert identifiers.health_gorilla("x") == {"system": "https://www.healthgorilla.com", "value": "x"}


def test_an_assigner_may_be_missing() -> None:
    """Without assigner or reference it is empty."""
    assert identifiers.assigner({}) == ""
    assert identifiers.assigner({"assigner": {"display": "x"}}) == ""
    assert identifiers.assigner({"assigner": "x"}) == ""
