"""$create-staff-user: creates a Health Gorilla account for a person without an NPI, or changes an account's roles.

Reads the Practitioner in Medplum and the account in Health Gorilla, by the id that the first call wrote back. Writes
the account, then writes id and login back to Medplum. A repeated call writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from bot_layer.bot.declaration import Bot, Grant
from bot_layer.bot.event import Event, target
from bot_layer.bot.handler import Handler
from bot_layer.fhir.json import Json
from bot_layer.health_gorilla import accounts as health_gorilla_accounts
from bot_layer.health_gorilla import client as health_gorilla
from bot_layer.health_gorilla import tenant_settings as practice
from bot_layer.health_gorilla.accounts import Account, LoginTaken
from bot_layer.health_gorilla.client import HealthGorillaClient
from bot_layer.health_gorilla.rules import account_request, enrollment, enrollment_answer, staff
from bot_layer.health_gorilla.rules import settings as hg
from bot_layer.health_gorilla.rules.account_request import AccountRequest
from bot_layer.health_gorilla.rules.enrollment import Enroll, Enrollment, NothingToDo, Update
from bot_layer.health_gorilla.rules.staff import Person, Roles
from bot_layer.http import transport
from bot_layer.medplum import client as medplum

BOT = Bot(
    name="create-staff-user",
    identifier="health-gorilla-labs/create-staff-user",
    about="Creates a Health Gorilla account for a person without an NPI, and applies administrative and security roles",
    target="Practitioner",
    parameter="practitioner",
    settings=(*hg.SETTINGS, *transport.SETTINGS),
    grants=(Grant("Practitioner", update=True, search=False), Grant("Organization", read=False)),
)


def create(event: Event) -> Json:
    """Gather, decide, act; returns one Parameters resource."""
    asked = target(event, "Practitioner", "practitioner")
    server, now = medplum.connect(event), datetime.now(UTC)
    gorilla = practice.in_tenant(health_gorilla.connect(event.secrets), server, event, now)

    practitioner = server.read(asked.reference)
    person = practice.read_clinician(event, practitioner, now)
    enrollment.require_active(person)
    staff.require_no_npi(person)
    who = staff.person(person, gorilla.settings)
    wanted = staff.roles(event.text("role"), event.text("securityRole"), person)
    requested = practice.gather_request(server, event, person, gorilla.settings, now)
    requested = replace(requested, issues=[*wanted.issues, *requested.issues])
    found, members = _gather(gorilla, who)

    decision: Enroll | Update | NothingToDo
    if found is not None:
        requested = account_request.for_existing(requested)
        decision = staff.plan_update(who, found, wanted, requested)
    else:
        decision = staff.plan_account(who, wanted, requested, gorilla.settings)

    if event.flag("preview"):
        return enrollment_answer.preview(decision, person, requested)
    action, account = _act(gorilla, decision, who, wanted, requested, members=members)

    def written(stored: Json) -> Json:
        return enrollment.write_back(stored, account.health_gorilla_id, account.login, now)

    if gorilla.settings.is_configured_tenant and written(practitioner) != practitioner:
        server.change(asked.reference, written)
    return enrollment_answer.answer(action, account.health_gorilla_id, account.login, requested, issues=account.issues)


def _gather(gorilla: HealthGorillaClient, who: Person) -> tuple[Enrollment | None, Sequence[Enrollment]]:
    """The account by the id stored in Medplum; in another tenant, for which no id is stored, by searching all
    accounts."""
    if who.health_gorilla_id or gorilla.settings.is_configured_tenant:
        return (_find(gorilla, who) if who.health_gorilla_id else None), ()
    members = gorilla.members()
    return staff.recognize(members, who), members


def _find(gorilla: HealthGorillaClient, who: Person, *, login_taken: bool = False) -> Enrollment | None:
    """The account by the id stored in Medplum, else by searching the tenant."""
    if who.health_gorilla_id:
        return staff.pick(gorilla.accounts_of(who.health_gorilla_id), who)
    return staff.recognize(gorilla.members(), who, login_taken=login_taken)


def _act(
    gorilla: HealthGorillaClient,
    decision: Enroll | Update | NothingToDo,
    who: Person,
    wanted: Roles,
    requested: AccountRequest,
    *,
    members: Sequence[Enrollment],
) -> tuple[str, Account]:
    """The action taken, and the account afterwards. An account that exists, or is found after all, is updated.

    The action is a creation only if the account did not exist before, or was found after this call lost an answer.
    """

    login_taken = False

    def find() -> Enrollment | None:
        return _find(gorilla, who, login_taken=login_taken)

    def plan(found: Enrollment | None) -> Update | NothingToDo:
        return staff.plan_update(who, enrollment.require_found(found), wanted, account_request.for_existing(requested))

    action = enrollment_answer.action_of(decision)
    if isinstance(decision, Enroll):
        try:
            account = health_gorilla_accounts.enroll(gorilla, decision, find)
            # For an hour, Health Gorilla repeats its first answer to the same create.
            before = [member for member in members if member.id == account.health_gorilla_id]
            existing = before[0] if before else account.existing
            if existing is None:
                return action, account
            maybe_made = account.maybe_made and not before
        except LoginTaken as refused:
            maybe_made, login_taken = refused.maybe_made, True
            existing = find()
            if existing is None:
                raise
        decision = plan(existing)
        action = action if maybe_made else enrollment_answer.action_of(decision)
    account = health_gorilla_accounts.update(gorilla, decision, lambda: plan(find()))
    return action if account.heeded else "unchanged", replace(account, login=account.login or who.known_login)


handler = Handler(BOT, create, read_settings=hg.read)
