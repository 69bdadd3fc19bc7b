"""What a source reports as not exported."""

from __future__ import annotations

from typing import Any

import pytest

from bot_layer.bulk_sync.rules import export_errors
from bot_layer.bulk_sync.rules.export_errors import ANY_TYPE, NotExported, incomplete_types, read_outcomes

TYPES = ("Patient", "Observation", "Condition")


def outcome(**issue: Any) -> dict[str, Any]:
    """An OperationOutcome with one issue."""
    return {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "processing"} | issue]}


@pytest.mark.parametrize(
    ("issue", "kind"),
    [
        ({"expression": ["Observation.value"]}, "Observation"),
        ({"location": ["/f:Observation/f:value"]}, "Observation"),
        ({"diagnostics": "Observation/o-1 of Jane Sample could not be exported"}, "Observation"),
        ({"details": {"text": "3 Observation resources"}}, "Observation"),
        ({"details": {"coding": [{"code": "Observation"}]}}, "Observation"),
        ({"diagnostics": "Some resources could not be exported."}, ANY_TYPE),
        ({"diagnostics": "Encounter/1"}, ANY_TYPE),
        ({"diagnostics": 7, "details": "x", "expression": {}}, ANY_TYPE),
        ({"severity": "fatal"}, ANY_TYPE),
        ({"severity": 7}, ANY_TYPE),
    ],
)
def test_an_error_counts_for_the_type_that_it_names(issue: dict[str, Any], kind: str) -> None:
    """Any field may name one of the requested types; the text itself is not kept."""
    (found,), _ = read_outcomes([outcome(**issue)], TYPES)
    assert (found.type, found.count) == (kind, 1)
    assert "Jane" not in repr(found)


def test_the_manifest_may_name_the_type_too() -> None:
    """Some sources put the type into the manifest's entry, where the guide has OperationOutcome."""
    for named, kind in (("Condition", "Condition"), ("OperationOutcome", ANY_TYPE)):
        (found,), _ = read_outcomes([outcome()], TYPES, named=named)
        assert found.type == kind


def test_information_changes_nothing_and_a_warning_is_a_note() -> None:
    """Only a resource that was not exported holds back the time stamps."""
    missing, notes = read_outcomes([outcome(severity=each) for each in ("information", "success", "warning")], TYPES)
    assert missing == ()
    assert notes == ("the source reports 1 x warning processing",)


@pytest.mark.parametrize("odd", [{"resourceType": "Patient"}, {"resourceType": "OperationOutcome", "issue": "x"}])
def test_an_error_that_is_not_an_outcome_may_concern_every_type(odd: dict[str, Any]) -> None:
    """It is unknown what the source meant."""
    (found,), _ = read_outcomes([odd], TYPES)
    assert found.type == ANY_TYPE


def test_a_missing_patient_holds_every_type_back() -> None:
    """With the Patient, all of their resources may be missing."""
    assert incomplete_types(TYPES, [NotExported("Observation", 1, "x")]) == {"Observation"}
    assert incomplete_types(TYPES, [NotExported("Patient", 1, "x")]) == set(TYPES)
    assert incomplete_types(TYPES, export_errors.unreadable()) == set(TYPES)
    assert incomplete_types(TYPES, []) == set()


def test_a_code_that_is_none_is_not_kept() -> None:
    """It could be a person's name."""
    (found,), _ = read_outcomes([outcome(code="Jane Sample, born 1970")], TYPES)
    assert found.reason == "error unknown"
