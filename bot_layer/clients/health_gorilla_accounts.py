"""Accounts made and changed in Health Gorilla exactly once, although answers get lost and logins are taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from bot_layer.clients.fhir_check import require_valid
from bot_layer.clients.health_gorilla import HealthGorillaClient, created_id
from bot_layer.clients.transport import Answer
from bot_layer.core import refusals
from bot_layer.core.enrollment import Enroll, Enrolment, NothingToDo, Update
from bot_layer.core.json import Json
from bot_layer.errors import BotError, InputError, PermanentError, TransientError

_ATTEMPTS = 3

Find = Callable[[], Enrolment | None]
Replan = Callable[[], Update | NothingToDo]


@dataclass(frozen=True)
class Account:
    """An account as it stands afterwards. ``login`` is None where neither side tells it."""

    health_gorilla_id: str | None = field(repr=False)
    login: str | None = field(repr=False)


def enroll(gorilla: HealthGorillaClient, plan: Enroll, find: Find) -> Account:
    """The account, created once: a lost answer is settled by ``find`` before anything is sent again.

    A login that is taken makes way for the next candidate. InputError or PermanentError where Health Gorilla refuses.
    """
    refused: BotError | None = None
    for login in plan.logins:
        payload = plan.payload(login)
        require_valid(payload)
        answer, found = _create(gorilla, payload, find)
        if found is None and answer is not None and answer.ok and answer.status != 202:
            return _created(gorilla, plan, answer, login, find)
        # Whatever the refusal says: if the person has an account by now, it is theirs, and no second one is made.
        found = found or find()
        if found is not None:
            return Account(found.id or plan.directory_id, found.login or login)
        refused = _refusal(answer)
        if refused.code != refusals.LOGIN_TAKEN:
            raise refused
    assert refused is not None
    raise refused


def update(gorilla: HealthGorillaClient, plan: Update | NothingToDo, replan: Replan) -> Enrolment:
    """The enrolment after the PUT; on a conflict or a lost answer it is planned anew from what is there by then."""
    current = plan
    for attempt in range(_ATTEMPTS):
        if isinstance(current, NothingToDo):
            return current.found
        require_valid(current.payload)
        try:
            answer = gorilla.update_account(current.payload)
        except TransientError as error:
            if not error.maybe_done or attempt == _ATTEMPTS - 1:
                raise
        else:
            if answer.ok:
                return current.found
            if answer.status not in {409, 412} or attempt == _ATTEMPTS - 1:
                raise _refusal(answer)
        current = replan()
    assert isinstance(current, NothingToDo)
    return current.found


def _create(gorilla: HealthGorillaClient, payload: Json, find: Find) -> tuple[Answer | None, Enrolment | None]:
    """The answer, or what was found after an answer was lost."""
    for attempt in range(_ATTEMPTS):
        try:
            return gorilla.create_account(payload), None
        except TransientError as error:
            if not error.maybe_done:
                raise
            found = find()
            if found is not None:
                return None, found
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("the last attempt returns or raises")


def _created(gorilla: HealthGorillaClient, plan: Enroll, answer: Answer, login: str, find: Find) -> Account:
    """The account that a create made; its body may be empty, so the account is read."""
    role_id = created_id(answer, "PractitionerRole")
    found = gorilla.enrolment(role_id) if role_id else find()
    known = found.id if found else None
    return Account(known or plan.directory_id, (found.login if found else None) or login)


def _refusal(answer: Answer | None) -> BotError:
    """The error of a refusal, by its cause where the answer tells one."""
    if answer is None or answer.status == 202 or (answer.status == 409 and not answer.body.strip()):
        return TransientError(
            "Health Gorilla is still busy with the same request; sync again later.",
            service="Health Gorilla",
            status=answer.status if answer else None,
            method="POST",
            path="PractitionerRole",
            code="enrolment-in-flight",
        )
    cause = refusals.reason(answer.outcome())
    if cause is not refusals.UNKNOWN:
        return InputError(cause.text, code=cause.code)
    error = answer.error()
    if isinstance(error, PermanentError):
        error.code = cause.code
    return error
