"""$sync-practitioner: enroll a clinician in Health Gorilla, or update an enrolled one.

Reads the Practitioner and the laboratories of its account numbers in Medplum, and the account in Health Gorilla;
without one, the NPI directory. Writes the account, then writes Health Gorilla's id and login back. A repeated call
writes nothing.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from bot_layer.bot.declaration import Bot, Grant, Watch
from bot_layer.bot.event import Event, target
from bot_layer.bot.handler import Handler
from bot_layer.fhir.json import Json
from bot_layer.fhir.outcomes import note
from bot_layer.health_gorilla import accounts as health_gorilla_accounts
from bot_layer.health_gorilla import client as health_gorilla
from bot_layer.health_gorilla import tenant_settings as practice
from bot_layer.health_gorilla.accounts import Account
from bot_layer.health_gorilla.client import HealthGorillaClient
from bot_layer.health_gorilla.rules import account_request, enrollment, enrollment_answer, practitioner_role
from bot_layer.health_gorilla.rules import settings as hg
from bot_layer.health_gorilla.rules.account_request import AccountRequest
from bot_layer.health_gorilla.rules.clinician import Clinician
from bot_layer.health_gorilla.rules.enrollment import Enroll, Enrollment, NothingToDo, Update
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
        return enrollment_answer.answer("unchanged", issues=[deleted])
    server, now = medplum.connect(event), datetime.now(UTC)
    gorilla = practice.in_tenant(health_gorilla.connect(event.secrets), server, event, now)

    # The event may be stale or invented by its caller: enroll Medplum's current state.
    practitioner = server.read(asked.reference)
    clinician = practice.read_clinician(event, practitioner, now)
    enrollment.require_active(clinician)
    npi = enrollment.npi_of(clinician, gorilla.settings)
    requested = practice.gather_request(server, event, clinician, gorilla.settings, now)
    found = enrollment.pick(gorilla.enrollments(npi))

    decision: Enroll | Update | NothingToDo
    if found is not None:
        requested = account_request.for_existing(requested)
        decision = _plan(gorilla, clinician, found, requested, npi)
    else:
        entry = enrollment.directory_entry(gorilla.directory(npi))
        role = requested.practitioner_role or practice.practitioner_role(server, asked.reference, now)
        requested = account_request.for_new(requested, role)
        decision = enrollment.plan_enrollment(clinician, entry, requested, gorilla.settings, role=role)

    if event.flag("preview"):
        return enrollment_answer.preview(decision, clinician, requested)
    action, account = _act(gorilla, decision, clinician, requested, npi)
    kept = account.login if gorilla.settings.is_configured_tenant else None

    def written(stored: Json) -> Json:
        return enrollment.write_back(stored, account.health_gorilla_id, kept, now)

    if written(practitioner) != practitioner:
        server.change(asked.reference, written)
    return enrollment_answer.answer(action, account.health_gorilla_id, account.login, requested, issues=account.issues)


def _plan(
    gorilla: HealthGorillaClient, clinician: Clinician, found: Enrollment, requested: AccountRequest, npi: str
) -> Update | NothingToDo:
    if enrollment.health_gorilla_id_of(clinician) is None:
        # Only the NPI leads to this account, and a typing error may make it a colleague's.
        shown = found.name if found.name.element else enrollment.directory_entry(gorilla.directory(npi)).name
        enrollment.require_name(clinician, shown)
    login = enrollment.login_to_send(clinician, found, gorilla.settings)
    role = practitioner_role.replaced(found.role, requested.practitioner_role)
    return enrollment.plan_update(clinician, found, requested, login=login, role=role)


def _act(
    gorilla: HealthGorillaClient,
    decision: Enroll | Update | NothingToDo,
    clinician: Clinician,
    requested: AccountRequest,
    npi: str,
) -> tuple[str, Account]:
    """The action taken, and the account afterwards. An account that is found instead of a new one is updated."""

    def find() -> Enrollment | None:
        return enrollment.pick(gorilla.enrollments(npi))

    def replan() -> Update | NothingToDo:
        return _plan(gorilla, clinician, enrollment.require_found(find()), requested, npi)

    action, login = enrollment_answer.action_of(decision), enrollment.kept_login(clinician, gorilla.settings)
    if isinstance(decision, Enroll):
        account = health_gorilla_accounts.enroll(gorilla, decision, find)
        if account.existing is None:
            return action, account
        # Created by another call, which may have had older data, such as an earlier state of the Practitioner.
        decision, login = _plan(gorilla, clinician, account.existing, requested, npi), account.login
        action = action if account.maybe_made else enrollment_answer.action_of(decision)
    settled = health_gorilla_accounts.update(gorilla, decision, replan)
    if action == "updated" and not settled.heeded:
        action = "unchanged"
    return action, replace(settled, login=settled.login or login)


handler = Handler(BOT, sync, read_settings=hg.read)
