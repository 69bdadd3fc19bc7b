"""Why Health Gorilla refused, as far as its answer says."""

from __future__ import annotations

import pytest

from bot_layer.fhir.json import Json
from bot_layer.health_gorilla.rules import refusals


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("Login is already taken", "login-taken"),
        ("A user with this username already exists", "login-taken"),
        ("Email must be unique", "email-taken"),
        ("This e-mail is in use", "email-taken"),
        ("Practitioner is already enrolled in the tenant", "already-enrolled"),
        ("Name does not match the NPI directory", "directory-name-mismatch"),
        ("1 is not on the list of account numbers assigned to this practice", "account-number-refused"),
        ("Unknown reference Organization/f-000", "laboratory-unknown"),
        ("Unknown location", "location-unknown"),
        ("No access to tenant", "tenant-unknown"),
        ("Something else", "refused-by-health-gorilla"),
        ("", "refused-by-health-gorilla"),
    ],
)
def test_a_cause_is_known_by_the_words_it_must_contain(said: str, code: str) -> None:
    """diagnostics and details.text are both read."""
    assert refusals.reason({"issue": [{"diagnostics": said}]}).code == code
    assert refusals.reason({"issue": [{"details": {"text": said}}]}).code == code


def test_an_empty_answer_has_no_known_cause() -> None:
    """Bodies can be empty."""
    assert refusals.reason({}) is refusals.UNKNOWN


@pytest.mark.parametrize(
    "outcome",
    [
        {"issue": None},
        {"issue": "login taken"},
        {"issue": ["login taken", None]},
        {"issue": [{"details": "login taken", "location": "login taken", "expression": None}]},
    ],
)
def test_an_answer_that_is_not_an_operation_outcome_has_no_known_cause(outcome: Json) -> None:
    """A gateway's JSON does not break the reading of a refusal."""
    assert refusals.reason(outcome) is refusals.UNKNOWN
