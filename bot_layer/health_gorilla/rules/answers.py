"""The answer of a bot that writes to Health Gorilla: one Parameters resource, the same on every Medplum version."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from bot_layer.fhir import identifiers, outcomes, parameters
from bot_layer.fhir.json import Json
from bot_layer.fhir.outcomes import Issue, note
from bot_layer.health_gorilla.rules import accounts
from bot_layer.health_gorilla.rules.account_request import AccountRequest
from bot_layer.health_gorilla.rules.clinician import Clinician
from bot_layer.health_gorilla.rules.enrollment import Decision, Enroll, Update

NO_REQUEST: Final = AccountRequest()
# What each action is called in a sentence about an account, a location or a patient.
_MADE: Final = {"enrolled": "created", "created": "created", "registered": "registered"}


def answer(
    action: str,
    subject: str,
    entries: Iterable[Json | None],
    *,
    preview: bool = False,
    differences: Iterable[str] = (),
    payload: Json | None = None,
    issues: Sequence[Issue] = (),
) -> Json:
    """``action``, in a preview ``preview``, the entries, each ``difference``, the ``payload``, and the ``outcome``.

    ``subject`` is what was written: an account, a location, a patient.
    """
    code = f"would-be-{action}" if preview else action
    done = note(code, _sentence(action, subject, preview=preview))
    return parameters.build(
        parameters.code("action", action),
        parameters.boolean("preview", True) if preview else None,
        *entries,
        *(parameters.string("difference", each) for each in differences),
        parameters.resource("payload", payload),
        parameters.resource("outcome", outcomes.outcome([done, *issues])),
    )


def of_account(
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
    return answer(action, "account", entries, issues=[*requested.issues, *issues])


def preview_of_account(decision: Decision, clinician: Clinician, requested: AccountRequest) -> Json:
    """What would be done: ``action``, ``preview`` true, the ``payload`` without password, and each ``difference``."""
    email = next(iter(decision.emails), None)
    health_gorilla_id: str | None
    login: str | None
    if isinstance(decision, Enroll):
        health_gorilla_id, login = decision.directory_id, decision.logins[0]
        payload, differences = decision.payload(decision.logins[0], email), ["PractitionerRole: create"]
    else:
        health_gorilla_id, login = decision.found.id, decision.found.login
        payload, differences = decision.with_email(email), _differences(decision)
    if clinician.lacks(health_gorilla_id, login):
        differences = [*differences, "Practitioner in Medplum: Health Gorilla id and login written back"]
    return answer(
        decision.action,
        "account",
        [parameters.string("healthGorillaId", health_gorilla_id), *_account_numbers(requested)],
        preview=True,
        differences=differences,
        payload=accounts.without_password(payload),
        issues=requested.issues,
    )


def _differences(update: Update) -> list[str]:
    """What would change, as elements and counts; the payload has the values."""
    differences = {
        f"PractitionerRole.contained.identifier: {len(update.added)} added": update.added,
        "PractitionerRole.code: role replaced": update.changes("code"),
        "PractitionerRole.extension: security role set": update.changes("extension"),
        "PractitionerRole.location: replaced": update.moves,
        "PractitionerRole.contained.telecom: e-mail address added": update.emails,
    }
    return [text for text, differs in differences.items() if differs]


def _account_numbers(requested: AccountRequest) -> list[Json]:
    return [
        parameters.parts(
            "accountNumber",
            parameters.string("value", number.get("value")),
            parameters.reference("assigner", identifiers.assigner(number)),
        )
        for number in requested.identifiers
        if identifiers.kind(number) == "AN"
    ]


def _sentence(action: str, subject: str, *, preview: bool) -> str:
    was, end = ("would be", "; nothing was written.") if preview else ("was", ".")
    if action == "unchanged":
        return f"Health Gorilla and Medplum agree; nothing {was} written."
    if action == "updated":
        return f"The {'registration' if subject == 'patient' else subject} in Health Gorilla {was} updated{end}"
    return f"The {subject} {was} {_MADE[action]} in Health Gorilla{end}"
