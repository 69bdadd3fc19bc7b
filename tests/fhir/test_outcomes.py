"""OperationOutcomes."""

from __future__ import annotations

import pytest
from fhir.resources.R4B.operationoutcome import OperationOutcome

from bot_layer.errors import (
    AuthError,
    BotError,
    ConfigError,
    InputError,
    PermanentError,
    ReviewNeeded,
    ServiceError,
    TransientError,
)
from bot_layer.fhir import outcomes
from bot_layer.fhir.json import Json

ERRORS: list[tuple[BotError, str, str]] = [
    (InputError("x", expression=["Practitioner.name"]), "invalid", "invalid-input"),
    (ConfigError.for_missing(["B", "A"]), "required", "missing-settings"),
    (ReviewNeeded("x", code="npi-ambiguous"), "conflict", "npi-ambiguous"),
    (AuthError("x"), "security", "login-refused"),
    (ServiceError("x", service="S"), "exception", "service-error"),
    (
        TransientError("x", service="S", status=429, method="GET", path="A/{id}", retry_after=3),
        "transient",
        "try-again-later",
    ),
    (PermanentError("x", service="S", status=422, issues=["invalid"]), "processing", "refused-by-service"),
]


@pytest.mark.parametrize(("error", "issue_code", "code"), ERRORS)
def test_each_error_has_its_fhir_code_and_its_own(error: BotError, issue_code: str, code: str) -> None:
    """The class of an error decides FHIR's code; details.coding has our own code; the whole is valid FHIR."""
    built = outcomes.of_error(error)
    OperationOutcome.model_validate(built)
    assert built["issue"][0]["code"] == issue_code
    assert outcomes.codes(built) == [code]


def test_one_config_error_names_all_that_is_missing() -> None:
    """The operator sees everything at once."""
    error = ConfigError.for_missing(["B", "A"])
    assert error.missing == ("A", "B")
    assert "A, B" in error.message


def test_a_services_error_is_reported_without_its_words() -> None:
    """diagnostics has service, method, path template, status and when to retry."""
    error = TransientError("x", service="S", status=429, method="GET", path="A/{id}", retry_after=3)
    assert outcomes.of_error(error)["issue"][0]["diagnostics"] == "S GET A/{id} status 429 retry after 3 s"


def test_the_most_severe_issue_is_first() -> None:
    """Readers who look at one issue see the most important one."""
    found = outcomes.outcome(
        [outcomes.note("done", "x"), outcomes.warning("odd", "y", expression=["A.b"]), outcomes.Issue("bad", "z")]
    )
    assert outcomes.codes(found) == ["bad", "odd", "done"]
    assert found["issue"][1]["expression"] == ["A.b"]


def test_foreign_codings_are_no_codes_of_ours() -> None:
    """Only our system counts."""
    foreign: Json = {"issue": [{"details": {"coding": [{"system": "https://other.example", "code": "x"}]}}, {}]}
    assert outcomes.codes(foreign) == []
