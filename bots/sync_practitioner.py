"""$sync-practitioner: enrol a clinician in Health Gorilla, or bring an enrolled one up to date.

Reads the Practitioner and the laboratories of its account numbers in Medplum, and the account in Health Gorilla;
without one, the NPI directory. Writes the account, then Health Gorilla's id and login back. Calling it again writes
nothing.
"""

from __future__ import annotations

from bot_layer.clients import health_gorilla, health_gorilla_accounts, medplum, transport
from bot_layer.clients.health_gorilla import HealthGorillaClient
from bot_layer.clients.health_gorilla_accounts import Account
from bot_layer.clients.medplum import Medplum
from bot_layer.core import accounts, enrollment, enrollment_answer
from bot_layer.core import health_gorilla as hg
from bot_layer.core.declaration import Bot, Grant, Watch
from bot_layer.core.enrollment import Enroll, Enrolment, NothingToDo, Update, Wishes
from bot_layer.core.event import Event, target
from bot_layer.core.health_gorilla import HealthGorilla
from bot_layer.core.json import Json
from bot_layer.core.outcomes import note
from bot_layer.handler import Handler

BOT = Bot(
    name="sync-practitioner",
    identifier="health-gorilla-labs/sync-practitioner",
    about="Enrols a clinician in Health Gorilla and keeps id, login and lab account numbers in step",
    target="Practitioner",
    parameter="practitioner",
    settings=(*hg.SETTINGS, *transport.SETTINGS),
    watches=(Watch("Practitioner"),),
    grants=(Grant("Practitioner", write=True), Grant("Organization")),
)


def sync(event: Event) -> Json:
    """Gather, decide, act; the answer is one Parameters resource."""
    asked = target(event, "Practitioner", "practitioner")
    if asked.deleted:
        gone = note("practitioner-deleted", "The Practitioner was deleted in Medplum; its account was left as it is.")
        return enrollment_answer.answer("unchanged", issues=[gone])
    server, gorilla = medplum.connect(event), health_gorilla.connect(event.secrets)

    # The event may be stale, or made up by its caller: what is enrolled is what Medplum holds.
    practitioner = server.read(asked.reference)
    enrollment.require_active(practitioner)
    npi = enrollment.npi_of(practitioner)
    wishes = _wishes(server, practitioner, gorilla.settings)
    found = enrollment.pick(gorilla.enrolments(npi))

    decision: Enroll | Update | NothingToDo
    if found is not None:
        decision = enrollment.plan_update(practitioner, found, wishes)
    else:
        entry = enrollment.directory_entry(gorilla.directory(npi))
        decision = enrollment.plan_enrolment(practitioner, entry, wishes, gorilla.settings)

    if event.flag("preview"):
        return enrollment_answer.preview(decision, practitioner, wishes)
    account = _act(gorilla, decision, practitioner, wishes, npi)
    written = enrollment.write_back(practitioner, account.health_gorilla_id, account.login)
    if written != practitioner:
        server.change(asked.reference, lambda now: enrollment.write_back(now, account.health_gorilla_id, account.login))
    return enrollment_answer.answer(
        enrollment_answer.action_of(decision), account.health_gorilla_id, account.login, wishes
    )


def _wishes(server: Medplum, practitioner: Json, settings: HealthGorilla) -> Wishes:
    """The account numbers, resolved through one search, and the identifier for single sign-on."""
    references = enrollment.assigner_references(practitioner)
    ids = ",".join(reference.partition("/")[2] for reference in references)
    found = server.search("Organization", [("_id", ids), ("_count", str(len(references)))]) if references else []
    numbers = enrollment.account_numbers(practitioner, {f"Organization/{lab['id']}": lab for lab in found})
    return enrollment.with_single_sign_on(numbers, practitioner, settings)


def _act(
    gorilla: HealthGorillaClient,
    decision: Enroll | Update | NothingToDo,
    practitioner: Json,
    wishes: Wishes,
    npi: str,
) -> Account:
    def find() -> Enrolment | None:
        return enrollment.pick(gorilla.enrolments(npi))

    def replan() -> Update | NothingToDo:
        return enrollment.plan_update(practitioner, enrollment.require_found(find()), wishes)

    if isinstance(decision, Enroll):
        return health_gorilla_accounts.enroll(gorilla, decision, find)
    settled = health_gorilla_accounts.update(gorilla, decision, replan)
    return Account(settled.id, settled.login or accounts.login_of(practitioner))


handler = Handler(BOT, sync)
