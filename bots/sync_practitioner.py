"""$sync-practitioner: enroll a clinician in Health Gorilla, or update an enrolled one.

Reads the Practitioner and the laboratories of its account numbers in Medplum, and the account in Health Gorilla;
without one, the NPI directory. Writes the account, then writes Health Gorilla's id and login back. A repeated call
writes nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime

from bot_layer.bot.declaration import Bot, Grant, Watch
from bot_layer.bot.event import Event, target
from bot_layer.bot.handler import Handler
from bot_layer.fhir.json import Json
from bot_layer.fhir.outcomes import note
from bot_layer.health_gorilla import accounts as health_gorilla_accounts
from bot_layer.health_gorilla import client as health_gorilla
from bot_layer.health_gorilla import tenant_settings as practice
from bot_layer.health_gorilla.client import HealthGorillaClient
from bot_layer.health_gorilla.rules import account_request, answers, enrollment, practitioner_role
from bot_layer.health_gorilla.rules import settings as hg
from bot_layer.health_gorilla.rules.account_request import AccountRequest
from bot_layer.health_gorilla.rules.clinician import Clinician
from bot_layer.health_gorilla.rules.enrollment import Decision, Enrollment, Update
from bot_layer.http import transport
from bot_layer.medplum import client as medplum

BOT = Bot(
    name="sync-practitioner",
    identifier="health-gorilla-labs/sync-practitioner",
    about="Enrolls a clinician in Health Gorilla and keeps id, login and lab account numbers up to date",
    target="Practitioner",
    parameter="practitioner",
    settings=(*hg.SETTINGS, *transport.SETTINGS),
    watches=(Watch("Practitioner"),),
    # The operation's name in Medplum's documentation since 2026.
    operation_aliases=("health-gorilla-sync-practitioner",),
    grants=(
        Grant("Practitioner", update=True, search=False),
        Grant("PractitionerRole", read=False),
        Grant("Organization", read=False),
    ),
)


def sync(event: Event) -> Json:
    """Gather, decide, act; returns one Parameters resource."""
    asked = target(event, "Practitioner", "practitioner")
    if asked.deleted:
        deleted = note("practitioner-deleted", "The Practitioner was deleted in Medplum; the account was not changed.")
        return answers.of_account("unchanged", issues=[deleted])
    server, now = medplum.connect(event), datetime.now(UTC)
    gorilla = practice.in_tenant(health_gorilla.connect(event.secrets), server, event, now)

    # The event may be stale or invented by its caller: enroll Medplum's current state.
    practitioner = server.read(asked.reference)
    clinician = practice.read_clinician(event, practitioner, now)
    enrollment.require_active(clinician)
    npi = enrollment.npi_of(clinician, gorilla.settings)
    requested = practice.gather_request(server, event, clinician, gorilla.settings, now)

    def find() -> Enrollment | None:
        return enrollment.pick(gorilla.enrollments(npi))

    def plan(found: Enrollment) -> Update:
        return _plan(gorilla, clinician, found, requested, npi)

    found = find()
    decision: Decision
    if found is not None:
        requested = account_request.for_existing(requested)
        decision = plan(found)
    else:
        entry = enrollment.directory_entry(gorilla.directory(npi))
        role = requested.practitioner_role or practice.practitioner_role(server, asked.reference, now)
        requested = account_request.for_new(requested, role)
        decision = enrollment.plan_enrollment(clinician, entry, requested, gorilla.settings, role=role)

    if event.flag("preview"):
        return answers.preview_of_account(decision, clinician, requested)
    login = enrollment.kept_login(clinician, gorilla.settings)
    action, account = health_gorilla_accounts.carry_out(gorilla, decision, find=find, plan=plan, login=login)
    kept = account.login if gorilla.settings.is_configured_tenant else None

    def written(stored: Json) -> Json:
        return enrollment.write_back(stored, account.health_gorilla_id, kept, now)

    if written(practitioner) != practitioner:
        server.change(asked.reference, written)
    return answers.of_account(action, account.health_gorilla_id, account.login, requested, issues=account.issues)


def _plan(
    gorilla: HealthGorillaClient, clinician: Clinician, found: Enrollment, requested: AccountRequest, npi: str
) -> Update:
    if enrollment.one_health_gorilla_id(clinician.health_gorilla_ids) is None:
        # Only the NPI leads to this account, and a typing error may make it a colleague's.
        shown = found.name if found.name.element else enrollment.directory_entry(gorilla.directory(npi)).name
        enrollment.require_name(clinician, shown)
    login = enrollment.login_to_send(clinician, found, gorilla.settings)
    role = practitioner_role.replaced(found.role, requested.practitioner_role)
    return enrollment.plan_update(clinician, found, requested, login=login, role=role)


handler = Handler(BOT, sync, read_settings=hg.read)
