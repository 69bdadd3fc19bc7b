"""OperationOutcomes: the one place where an exception becomes one.

Every issue carries a machine-readable code under ``details.coding`` (listed in the README) beside FHIR's own ``code``.
https://hl7.org/fhir/R4/operationoutcome.html
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bot_layer.errors import BotError, InputError, ServiceError, TransientError
from bot_layer.fhir.json import Json

CODE_SYSTEM = "https://medplum.com/integrations/python-bots/outcome-code"


@dataclass(frozen=True)
class Issue:
    """One thing to say. ``issue_code`` is FHIR's, ``code`` is ours."""

    code: str
    text: str
    severity: str = "error"
    issue_code: str = "processing"
    expression: tuple[str, ...] = ()
    diagnostics: str | None = None


def note(code: str, text: str) -> Issue:
    """What was done."""
    return Issue(code, text, "information", "informational")


def warning(code: str, text: str, *, expression: Sequence[str] = ()) -> Issue:
    """What was left undone, without stopping the rest."""
    return Issue(code, text, "warning", "incomplete", tuple(expression))


def outcome(issues: Sequence[Issue]) -> Json:
    """The OperationOutcome of the issues, the gravest first."""
    ranks = ("fatal", "error", "warning", "information")
    ordered = sorted(issues, key=lambda issue: ranks.index(issue.severity))
    return {"resourceType": "OperationOutcome", "issue": [_issue(issue) for issue in ordered]}


def of_error(error: BotError) -> Json:
    """The OperationOutcome of an error; a service's answer is reported by its codes, never by its text."""
    expression = error.expression if isinstance(error, InputError) else ()
    return outcome([Issue(error.code, error.message, "error", error.issue_code, expression, _diagnostics(error))])


def codes(operation_outcome: Json) -> list[str]:
    """The machine-readable codes of an OperationOutcome, in order."""
    return [
        coding["code"]
        for issue in operation_outcome.get("issue", [])
        for coding in issue.get("details", {}).get("coding", [])
        if coding.get("system") == CODE_SYSTEM
    ]


def _diagnostics(error: BotError) -> str | None:
    if not isinstance(error, ServiceError):
        return None
    facts = [error.service, error.method, error.path, f"status {error.status}" if error.status else ""]
    if isinstance(error, TransientError) and error.retry_after is not None:
        facts.append(f"retry after {error.retry_after:g} s")
    return " ".join(part for part in facts if part)


def _issue(issue: Issue) -> Json:
    built: Json = {
        "severity": issue.severity,
        "code": issue.issue_code,
        "details": {"coding": [{"system": CODE_SYSTEM, "code": issue.code}], "text": issue.text},
    }
    if issue.diagnostics:
        built["diagnostics"] = issue.diagnostics
    if issue.expression:
        built["expression"] = list(issue.expression)
    return built
