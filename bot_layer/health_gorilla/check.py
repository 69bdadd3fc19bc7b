"""Does the connection to Health Gorilla work? Step by step, each needing the one before; nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from bot_layer.errors import BotError
from bot_layer.fhir.json import Json
from bot_layer.findings import Finding, passed, skipped
from bot_layer.health_gorilla import client as health_gorilla
from bot_layer.health_gorilla.client import HealthGorillaClient
from bot_layer.health_gorilla.rules import checks, enrollment
from bot_layer.health_gorilla.rules.clinician import Clinician
from bot_layer.http.addresses import path

# A valid NPI that nobody has: if the directory answers that it has no such record, it can be searched.
_NOBODY = "1000000004"

ReadClinician = Callable[[], Clinician]


def check(secrets: Mapping[str, str], read_clinician: ReadClinician | None = None) -> list[Finding]:
    """What each step found. ``read_clinician`` reads the one that the call names."""
    found: list[Finding] = []
    step = "settings"
    try:
        gorilla = health_gorilla.connect(secrets)
        found.append(passed(step, "All settings have values."))
        step = "token"
        token = gorilla.token()
        found.append(passed(step, "Health Gorilla accepts the login."))
        found.append(checks.scopes(token.scopes, gorilla.settings))
        step = "tenant"
        found.append(checks.tenant(_tenant(gorilla), gorilla.settings))
        step = "directory"
        gorilla.directory(_NOBODY)
        found.append(passed(step, "The NPI directory can be searched."))
        step = "practitioner"
        found.append(_practitioner(gorilla, read_clinician))
    except BotError as error:
        found.append(checks.failed(step, error))
    return checks.after_failure(found)


def check_partner(secrets: Mapping[str, str]) -> list[Finding]:
    """The steps that need no clinician, under names that say whose login and tenant they are."""
    return [replace(each, name=f"Health Gorilla {each.name}") for each in check(secrets) if each.name != "practitioner"]


def _tenant(gorilla: HealthGorillaClient) -> Json | None:
    answer = gorilla.send("GET", path("Organization/{id}", id=gorilla.settings.tenant_id))
    if answer.status in {404, 410}:
        return None
    if not answer.ok:
        raise answer.error()
    found: Json = answer.json()
    return found


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
    return checks.practitioner(found)
