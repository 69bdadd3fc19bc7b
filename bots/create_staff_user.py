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
from bot_layer.health_gorilla.rules import account_request, answers, enrollment, staff
from bot_layer.health_gorilla.rules import settings as hg
from bot_layer.health_gorilla.rules.enrollment import Decision, Enrollment, Update
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

    def find(*, login_taken: bool = False) -> Enrollment | None:
        """The account by the id stored in Medplum, else by searching the tenant."""
        if who.health_gorilla_id:
            return staff.pick(gorilla.accounts_of(who.health_gorilla_id), who)
        return staff.recognize(gorilla.members(), who, login_taken=login_taken)

    def plan(found: Enrollment) -> Update:
        return staff.plan_update(who, found, wanted, requested)

    # Medplum stores the id of an account in the configured tenant; in another one, all accounts are searched.
    members: Sequence[Enrollment] = (
        () if who.health_gorilla_id or gorilla.settings.is_configured_tenant else gorilla.members()
    )
    found = find() if who.health_gorilla_id else staff.recognize(members, who)
    decision: Decision
    if found is not None:
        requested = account_request.for_existing(requested)
        decision = plan(found)
    else:
        decision = staff.plan_account(who, wanted, requested, gorilla.settings)

    if event.flag("preview"):
        return answers.preview_of_account(decision, person, requested)
    action, account = health_gorilla_accounts.carry_out(
        gorilla,
        decision,
        find=find,
        plan=plan,
        find_by_login=lambda: find(login_taken=True),
        known=members,
        login=who.known_login,
    )

    def written(stored: Json) -> Json:
        return enrollment.write_back(stored, account.health_gorilla_id, account.login, now)

    if gorilla.settings.is_configured_tenant and written(practitioner) != practitioner:
        server.change(asked.reference, written)
    return answers.of_account(action, account.health_gorilla_id, account.login, requested, issues=account.issues)


handler = Handler(BOT, create, read_settings=hg.read)
