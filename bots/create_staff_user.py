"""$create-staff-user: a Health Gorilla account for somebody without NPI, or the roles of the one that is there.

Reads the Practitioner in Medplum and the account in Health Gorilla, which is known by the id that the first call wrote
back. Writes the account, then id and login back. Calling it again writes nothing.
"""

from __future__ import annotations

from dataclasses import replace

from bot_layer.clients import health_gorilla, health_gorilla_accounts, medplum, practice, transport
from bot_layer.clients.health_gorilla import HealthGorillaClient
from bot_layer.clients.health_gorilla_accounts import Account
from bot_layer.core import enrollment, enrollment_answer, refusals, staff
from bot_layer.core import health_gorilla as hg
from bot_layer.core.declaration import Bot, Grant
from bot_layer.core.enrollment import Enroll, Enrolment, NothingToDo, Update, Wishes
from bot_layer.core.event import Event, target
from bot_layer.core.json import Json
from bot_layer.core.staff import Person, Roles
from bot_layer.errors import InputError
from bot_layer.handler import Handler

BOT = Bot(
    name="create-staff-user",
    identifier="health-gorilla-labs/create-staff-user",
    about="Makes a Health Gorilla account for somebody without NPI, and applies administrative and security roles",
    target="Practitioner",
    parameter="practitioner",
    settings=(*hg.SETTINGS, *transport.SETTINGS),
    grants=(Grant("Practitioner", write=True), Grant("Organization")),
)


def create(event: Event) -> Json:
    """Gather, decide, act; the answer is one Parameters resource."""
    asked = target(event, "Practitioner", "practitioner")
    server = medplum.connect(event)
    gorilla = practice.in_tenant(health_gorilla.connect(event.secrets), server, event)

    practitioner = server.read(asked.reference)
    enrollment.require_active(practitioner)
    staff.require_no_npi(practitioner)
    who = staff.person(practitioner, gorilla.settings)
    wanted = staff.roles(event.text("role"), event.text("securityRole"), practitioner)
    wishes = practice.wishes(server, event, practitioner, gorilla.settings)
    wishes = replace(wishes, issues=[*wanted.issues, *wishes.issues])
    found = _find(gorilla, who)

    decision: Enroll | Update | NothingToDo
    if found is not None:
        wishes = enrollment.for_existing(wishes)
        decision = staff.plan_update(who, found, wanted, wishes)
    else:
        decision = staff.plan_account(who, wanted, wishes, gorilla.settings)

    if event.flag("preview"):
        return enrollment_answer.preview(decision, practitioner, wishes)
    action, account = _act(gorilla, decision, who, wanted, wishes)
    if gorilla.settings.is_configured_tenant:
        written = enrollment.write_back(practitioner, account.health_gorilla_id, account.login)
        if written != practitioner:
            server.change(
                asked.reference, lambda now: enrollment.write_back(now, account.health_gorilla_id, account.login)
            )
    return enrollment_answer.answer(action, account.health_gorilla_id, account.login, wishes, issues=account.issues)


def _find(
    gorilla: HealthGorillaClient, who: Person, *, thorough: bool = False, login_taken: bool = False
) -> Enrolment | None:
    """The account by the id that Medplum keeps; without one, by a look through the tenant where that is needed.

    Medplum keeps no id for another tenant than the configured one, so there it is always needed.
    """
    if who.health_gorilla_id:
        return staff.pick(gorilla.accounts_of(who.health_gorilla_id), who)
    if thorough or not gorilla.settings.is_configured_tenant:
        return staff.recognise(gorilla.members(), who, login_taken=login_taken)
    return None


def _act(
    gorilla: HealthGorillaClient, decision: Enroll | Update | NothingToDo, who: Person, wanted: Roles, wishes: Wishes
) -> tuple[str, Account]:
    """What was done, and the account afterwards. One that turns up while it is being made is brought up to date."""

    login_taken = False

    def find() -> Enrolment | None:
        return _find(gorilla, who, thorough=True, login_taken=login_taken)

    def plan(found: Enrolment | None) -> Update | NothingToDo:
        return staff.plan_update(who, enrollment.require_found(found), wanted, enrollment.for_existing(wishes))

    action = enrollment_answer.action_of(decision)
    if isinstance(decision, Enroll):
        try:
            account = health_gorilla_accounts.enroll(gorilla, decision, find)
            if account.existing is None:
                return action, account
            decision = plan(account.existing)
        except InputError as refused:
            if refused.code != refusals.LOGIN_TAKEN:
                raise
            login_taken = True
            existing = find()
            if existing is None:
                raise
            decision = plan(existing)
    account = health_gorilla_accounts.update(gorilla, decision, lambda: plan(find()))
    return action if account.heeded else "unchanged", replace(account, login=account.login or who.login)


handler = Handler(BOT, create)
