"""Checks of the connection to Health Gorilla, in steps of which each needs the one before. Nothing is written.

The findings are worded for a clinic's administrator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from bot_layer.errors import AuthError, BotError, ConfigError, TransientError
from bot_layer.fhir import outcomes, parameters
from bot_layer.fhir.json import Json, as_object
from bot_layer.fhir.outcomes import Issue
from bot_layer.findings import Finding, passed, skipped
from bot_layer.health_gorilla import client as health_gorilla
from bot_layer.health_gorilla.client import HealthGorillaClient
from bot_layer.health_gorilla.rules import enrollment
from bot_layer.health_gorilla.rules.clinician import Clinician
from bot_layer.health_gorilla.rules.settings import HealthGorilla
from bot_layer.http.addresses import path

STEPS = ("settings", "token", "scopes", "tenant", "directory", "practitioner")
CREATE_USERS = "create_users"
# A valid NPI that nobody has: if the directory answers that it has no such record, it can be searched.
_NOBODY = "1000000004"
_SEVERITY = {"warning": "warning", "failed": "error"}

ReadClinician = Callable[[], Clinician]


def check(secrets: Mapping[str, str], read_clinician: ReadClinician | None = None) -> list[Finding]:
    """The finding of each step. ``read_clinician`` reads the clinician whom the call names."""
    found: list[Finding] = []
    step = "settings"
    try:
        gorilla = health_gorilla.connect(secrets)
        found.append(passed(step, "All settings have values."))
        step = "token"
        token = gorilla.token()
        found.append(passed(step, "Health Gorilla accepts the login."))
        found.append(scopes(token.scopes, gorilla.settings))
        step = "tenant"
        found.append(_tenant(gorilla))
        step = "directory"
        gorilla.directory(_NOBODY)
        found.append(passed(step, "The NPI directory can be searched."))
        step = "practitioner"
        found.append(_practitioner(gorilla, read_clinician))
    except BotError as error:
        found.append(failed(step, error))
    return after_failure(found)


def check_partner(secrets: Mapping[str, str]) -> list[Finding]:
    """The steps that need no clinician, with Health Gorilla in their names, for the doctor."""
    return [replace(each, name=f"Health Gorilla {each.name}") for each in check(secrets) if each.name != "practitioner"]


def answer(found: Sequence[Finding]) -> Json:
    """One Parameters resource: ``ok``, one ``check`` for each step, and the ``outcome``."""
    return parameters.build(
        parameters.boolean("ok", is_good(found)),
        *(
            parameters.parts(
                "check",
                parameters.code("name", finding.name),
                parameters.code("status", finding.status),
                parameters.code("code", finding.code),
                parameters.string("text", finding.text),
            )
            for finding in found
        ),
        parameters.resource("outcome", outcomes.outcome([_issue(finding) for finding in found])),
    )


def is_good(found: Sequence[Finding]) -> bool:
    """True where no step failed."""
    return all(finding.status != "failed" for finding in found)


def failed(name: str, error: BotError) -> Finding:
    """A step that failed, with the error's own code, and what to do."""
    advice = ""
    if isinstance(error, ConfigError):
        advice = "Set them in Medplum under Project, Secrets."
    elif isinstance(error, TransientError):
        advice = "If the problem remains, check the address and whether this machine can reach it."
    elif isinstance(error, AuthError) and name != "token" and not error.code.startswith("medplum"):
        advice = "Ask Health Gorilla which rights your client and the user that it acts as have."
    return Finding(name, "failed", error.code, f"{error.message} {advice}".strip())


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
        "ask Health Gorilla to add create_users to your client."
    )
    return Finding("scopes", "warning", "scope-not-granted", text)


def _tenant(gorilla: HealthGorillaClient) -> Finding:
    """Whether the tenant exists and has what laboratories ask for: name, phone and address."""
    tenant_id = gorilla.settings.tenant_id
    answer = gorilla.send("GET", path("Organization/{id}", id=tenant_id))
    if answer.status in {404, 410}:
        text = f"Health Gorilla shows no tenant {tenant_id}: check HEALTH_GORILLA_TENANT_ID (t-...)."
        return Finding("tenant", "failed", "tenant-unknown", text)
    if not answer.ok:
        raise answer.error()
    organization = as_object(answer.json())
    missing = [key for key in ("name", "telecom", "address") if not organization.get(key)]
    if missing:
        text = f"The tenant has no {', no '.join(missing)}, and laboratories require it: ask Health Gorilla to add it."
        return Finding("tenant", "warning", "tenant-incomplete", text)
    return passed("tenant", "The tenant exists and has a name, phone and address.")


def _practitioner(gorilla: HealthGorillaClient, read: ReadClinician | None) -> Finding:
    """The same rules as for an enrollment, without the enrollment."""
    if read is None:
        return skipped("practitioner", "Name a clinician whose NPI and name you have checked.")
    clinician = read()
    enrollment.require_active(clinician)
    npi = enrollment.npi_of(clinician, gorilla.settings)
    entry = enrollment.directory_entry(gorilla.directory(npi))
    enrollment.require_name(clinician, entry.name)
    found = enrollment.pick(gorilla.enrollments(npi))
    enrollment.require_same_id(clinician, found.id if found else entry.health_gorilla_id)
    if found is None:
        text = "The directory has this NPI and name. The clinician is not enrolled yet: call $sync-practitioner."
    else:
        text = "The directory has this NPI and name, and the clinician is enrolled in the tenant."
    return passed("practitioner", text)


def _issue(finding: Finding) -> Issue:
    severity = _SEVERITY.get(finding.status, "information")
    return Issue(finding.code, finding.text, severity, "informational" if severity == "information" else "processing")
