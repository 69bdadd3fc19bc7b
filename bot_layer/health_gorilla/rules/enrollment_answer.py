"""The answer of the bots that make accounts: one Parameters resource, the same on every Medplum version."""

from __future__ import annotations

from collections.abc import Sequence

from bot_layer.fhir import identifiers, parameters
from bot_layer.fhir.json import Json
from bot_layer.fhir.outcomes import Issue
from bot_layer.health_gorilla.rules import accounts, answers
from bot_layer.health_gorilla.rules.account_request import AccountRequest
from bot_layer.health_gorilla.rules.clinician import Clinician
from bot_layer.health_gorilla.rules.enrollment import Enroll, NothingToDo, Update

NO_REQUEST = AccountRequest()


def action_of(decision: Enroll | Update | NothingToDo) -> str:
    """The word for what a decision does."""
    return {Enroll: "enrolled", Update: "updated", NothingToDo: "unchanged"}[type(decision)]


def answer(
    action: str,
    health_gorilla_id: str | None = None,
    login: str | None = None,
    requested: AccountRequest = NO_REQUEST,
    *,
    issues: Sequence[Issue] = (),
) -> Json:
    """``action``, ``healthGorillaId``, ``login``, one ``accountNumber`` for each AN, and the ``outcome``."""
    entries = [
        parameters.string("healthGorillaId", health_gorilla_id),
        parameters.string("login", login),
        *_account_numbers(requested),
    ]
    return answers.answer(action, "account", entries, issues=[*requested.issues, *issues])


def preview(decision: Enroll | Update | NothingToDo, clinician: Clinician, requested: AccountRequest) -> Json:
    """What would be done: ``action``, ``preview`` true, the ``payload`` without password, and each ``difference``."""
    return answers.answer(
        action_of(decision),
        "account",
        [parameters.string("healthGorillaId", _id_of(decision)), *_account_numbers(requested)],
        preview=True,
        differences=_differences(decision, clinician),
        payload=_payload(decision),
        issues=requested.issues,
    )


def _account_numbers(requested: AccountRequest) -> list[Json]:
    return [_account_number(number) for number in requested.identifiers if identifiers.kind(number) == "AN"]


def _account_number(number: Json) -> Json:
    return parameters.parts(
        "accountNumber",
        parameters.string("value", number.get("value")),
        parameters.reference("assigner", identifiers.assigner(number)),
    )


def _id_of(decision: Enroll | Update | NothingToDo) -> str | None:
    return decision.directory_id if isinstance(decision, Enroll) else decision.found.id


def _payload(decision: Enroll | Update | NothingToDo) -> Json | None:
    if isinstance(decision, NothingToDo):
        return None
    email = next(iter(decision.emails), None)
    if isinstance(decision, Enroll):
        payload = decision.payload(decision.logins[0], email)
    else:
        payload = decision.with_email(email)
    cleaned: Json = accounts.without_password(payload)
    return cleaned


def _differences(decision: Enroll | Update | NothingToDo, clinician: Clinician) -> list[str]:
    """What would change, as elements and counts; values stand in the payload."""
    found: list[str] = []
    if isinstance(decision, Enroll):
        found.append("PractitionerRole: create")
    elif isinstance(decision, Update):
        if decision.added:
            found.append(f"PractitionerRole.contained.identifier: {len(decision.added)} added")
        if decision.payload.get("code") != decision.found.role.get("code"):
            found.append("PractitionerRole.code: role replaced")
        if decision.payload.get("extension") != decision.found.role.get("extension"):
            found.append("PractitionerRole.extension: security role set")
        if decision.moves:
            found.append("PractitionerRole.location: replaced")
        if decision.emails:
            found.append("PractitionerRole.contained.telecom: e-mail address added")
    login = decision.logins[0] if isinstance(decision, Enroll) else decision.found.login
    if clinician.lacks(_id_of(decision), login):
        found.append("Practitioner in Medplum: Health Gorilla id and login written back")
    return found
