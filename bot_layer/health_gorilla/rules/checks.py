"""What a check of the connection to Health Gorilla found, in words that a clinic's administrator understands."""

from __future__ import annotations

from collections.abc import Sequence

from bot_layer.errors import AuthError, BotError, ConfigError, TransientError
from bot_layer.fhir import outcomes, parameters
from bot_layer.fhir.json import Json
from bot_layer.fhir.outcomes import Issue
from bot_layer.findings import Finding, passed, skipped
from bot_layer.health_gorilla.rules.enrollment import Enrollment
from bot_layer.health_gorilla.rules.settings import HealthGorilla

STEPS = ("settings", "token", "scopes", "tenant", "directory", "practitioner")
CREATE_USERS = "create_users"
_SEVERITY = {"passed": "information", "skipped": "information", "warning": "warning", "failed": "error"}


def failed(name: str, error: BotError) -> Finding:
    """A step that failed, with the error's own code, and what to do."""
    return Finding(name, "failed", error.code, f"{error.message} {_advice(name, error)}".strip())


def after_failure(found: Sequence[Finding]) -> list[Finding]:
    """The findings, with every step after the last one as skipped: each needs the one before."""
    done = {finding.name for finding in found}
    text = "Skipped, because an earlier step failed."
    return [*found, *(skipped(name, text) for name in STEPS if name not in done)]


def scopes(granted: frozenset[str], settings: HealthGorilla) -> Finding:
    """Whether accounts may be created with what was granted. Servers may misreport scopes: a doubt is a warning."""
    if CREATE_USERS in granted:
        return passed("scopes", "The login may create users.")
    if CREATE_USERS not in settings.scopes.split():
        text = "HEALTH_GORILLA_SCOPES lacks create_users, so nobody can be enrolled. Add it to the setting."
        return Finding("scopes", "failed", "scope-not-asked-for", text)
    text = (
        "Health Gorilla did not confirm that create_users was granted. If enrolling fails with rights-missing, "
        "ask Health "
        "Gorilla to add create_users to your client."
    )
    return Finding("scopes", "warning", "scope-not-granted", text)


def tenant(organization: Json | None, settings: HealthGorilla) -> Finding:
    """Whether the tenant is there and has what laboratories ask for: name, phone and address."""
    if organization is None:
        text = f"Health Gorilla shows no tenant {settings.tenant_id}: check HEALTH_GORILLA_TENANT_ID (t-...)."
        return Finding("tenant", "failed", "tenant-unknown", text)
    lacking = [key for key in ("name", "telecom", "address") if not organization.get(key)]
    if lacking:
        text = f"The tenant has no {', no '.join(lacking)}, and laboratories require it: ask Health Gorilla to add it."
        return Finding("tenant", "warning", "tenant-incomplete", text)
    return passed("tenant", "The tenant exists and has a name, phone and address.")


def practitioner(enrollment: Enrollment | None) -> Finding:
    """What is said of a known practitioner who passed every rule."""
    if enrollment is None:
        return passed(
            "practitioner",
            "The directory has this NPI and name. The clinician is not enrolled yet: call $sync-practitioner.",
        )
    return passed("practitioner", "The directory has this NPI and name, and the clinician is enrolled in the tenant.")


def is_good(found: Sequence[Finding]) -> bool:
    """True where no step failed."""
    return all(finding.status != "failed" for finding in found)


def answer(found: Sequence[Finding]) -> Json:
    """One Parameters resource: ``ok``, one ``check`` for each step, and the ``outcome``."""
    issues = [Issue(finding.code, finding.text, _SEVERITY[finding.status], _issue_code(finding)) for finding in found]
    return parameters.build(
        parameters.boolean("ok", is_good(found)),
        *(_part(finding) for finding in found),
        parameters.resource("outcome", outcomes.outcome(issues)),
    )


def _part(finding: Finding) -> Json:
    return parameters.parts(
        "check",
        parameters.code("name", finding.name),
        parameters.code("status", finding.status),
        parameters.code("code", finding.code),
        parameters.string("text", finding.text),
    )


def _issue_code(finding: Finding) -> str:
    return "informational" if finding.status in {"passed", "skipped"} else "processing"


def _advice(name: str, error: BotError) -> str:
    if isinstance(error, ConfigError):
        return "Set them in Medplum under Project, Secrets."
    if isinstance(error, TransientError):
        return "If the problem remains, check the address and whether this machine can reach it."
    if isinstance(error, AuthError) and name != "token" and not error.code.startswith("medplum"):
        return "Ask Health Gorilla which rights your client and the user that it acts as have."
    return ""
