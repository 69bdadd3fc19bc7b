"""Accounts made and changed in Health Gorilla exactly once, although answers get lost and logins are taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from bot_layer.errors import BotError, InputError, PermanentError, TransientError
from bot_layer.fhir.json import Json
from bot_layer.fhir.outcomes import Issue, warning
from bot_layer.fhir.validation import require_valid
from bot_layer.health_gorilla.client import HealthGorillaClient, created_id
from bot_layer.health_gorilla.rules import accounts, refusals
from bot_layer.health_gorilla.rules import settings as hg
from bot_layer.health_gorilla.rules.enrollment import Enroll, Enrollment, NothingToDo, Update
from bot_layer.http.answer import Answer
from bot_layer.http.retry import compare_and_set

Find = Callable[[], Enrollment | None]
Replan = Callable[[], Update | NothingToDo]


@dataclass(frozen=True)
class Account:
    """The account after the call. ``login`` is None if neither side has it.

    ``issues`` say what Health Gorilla did not take; ``heeded`` is False where it took nothing of a change. ``existing``
    is the account that was there although it was to be created; ``maybe_made`` is True where an answer of this call was
    lost, so that it may be what the call itself made.
    """

    health_gorilla_id: str | None = field(repr=False)
    login: str | None = field(repr=False)
    issues: tuple[Issue, ...] = ()
    heeded: bool = True
    existing: Enrollment | None = field(default=None, repr=False)
    maybe_made: bool = False


class LoginTaken(InputError):
    """The last login is taken by an account that was not found. ``maybe_made`` as in Account."""

    maybe_made = False


class _Overtaken(TransientError):
    """Another change came between; ``refused`` says how Health Gorilla reported it."""

    def __init__(self, status: int, refused: BotError) -> None:
        super().__init__(refused.message, service="Health Gorilla", status=status)
        self.refused = refused


def enroll(gorilla: HealthGorillaClient, plan: Enroll, find: Find) -> Account:
    """The account, created once: a lost answer is settled by ``find`` before anything is sent again.

    A login or an e-mail address that is taken makes way for the next one, the addresses at last for none. InputError
    or PermanentError where Health Gorilla refuses.
    """
    logins, emails, lost = list(plan.logins), [*plan.emails, None], False
    while True:
        payload = plan.payload(logins[0], emails[0])
        require_valid(payload)
        answer, found, lost_now = _create(gorilla, payload, find)
        lost = lost or lost_now
        issues = _without_email(plan.emails, emails[0])
        if found is None and answer is not None and answer.ok and answer.status != 202:
            return _created(gorilla, plan, answer, login=logins[0], find=find, issues=issues)
        # Whatever the refusal says: if the person has an account by now, it is theirs, and no second one is made.
        found = found or find()
        if found is not None:
            return Account(found.id or plan.directory_id, found.login or logins[0], existing=found, maybe_made=lost)
        refused = _refusal(answer, logins[0])
        if refused.code == refusals.LOGIN_TAKEN and len(logins) > 1:
            logins.pop(0)
        elif refused.code == refusals.EMAIL_TAKEN and emails[0] is not None:
            emails.pop(0)
        else:
            if isinstance(refused, LoginTaken):
                refused.maybe_made = lost
            raise refused


def update(gorilla: HealthGorillaClient, plan: Update | NothingToDo, replan: Replan) -> Account:
    """The account after the PUT; on a conflict or a lost answer it is planned again from the current account."""
    current, taken = plan, 0

    def write() -> Account:
        nonlocal taken
        if isinstance(current, NothingToDo):
            return _settled(current.found)
        email = current.emails[taken] if taken < len(current.emails) else None
        issues = _without_email(current.emails, email)
        if email is None and not current.required:
            return _settled(current.found, issues, heeded=False)
        payload = current.with_email(email)
        require_valid(payload)
        answer = gorilla.update_account(payload)
        if answer.ok:
            return _after_update(gorilla, current, issues, email=email)
        refused = _refusal(answer)
        if email is not None and refused.code == refusals.EMAIL_TAKEN:
            taken += 1
            return write()
        raise _Overtaken(answer.status, refused) if answer.status in {409, 412} else refused

    def look() -> None:
        nonlocal current
        current = replan()

    try:
        return compare_and_set(write, look=look)
    except _Overtaken as overtaken:
        raise overtaken.refused from None


def _settled(found: Enrollment, issues: tuple[Issue, ...] = (), *, heeded: bool = True) -> Account:
    return Account(found.id, found.login, issues, heeded)


def _after_update(
    gorilla: HealthGorillaClient, done: Update, issues: tuple[Issue, ...], *, email: str | None
) -> Account:
    """The account after a PUT; locations are read back, because releases before July 2026 ignore them silently."""
    if not done.moves:
        return _settled(done.found, issues)
    now = gorilla.enrollment(str(done.found.role["id"]))
    ignored = accounts.locations_of(now.role) != accounts.locations_of(done.payload)
    return _settled(now, (*issues, *_ignored(ignored)), heeded=not (ignored and done.only_moves and email is None))


def _ignored(ignored: bool) -> list[Issue]:
    text = (
        "Health Gorilla did not change the locations: this release accepts them for new accounts only. "
        "Ask its support to assign them."
    )
    return [warning("location-ignored", text)] if ignored else []


def _without_email(requested: tuple[str, ...], used: str | None) -> tuple[Issue, ...]:
    if not requested or used is not None:
        return ()
    return (warning(refusals.EMAIL_TAKEN, "No e-mail address was accepted: each is taken in some tenant."),)


def _create(gorilla: HealthGorillaClient, payload: Json, find: Find) -> tuple[Answer | None, Enrollment | None, bool]:
    """The answer, or what was found after an answer was lost; and whether one was lost."""
    lost = False

    def send() -> tuple[Answer | None, Enrollment | None, bool]:
        nonlocal lost
        try:
            return gorilla.create_account(payload), None, lost
        except TransientError as error:
            lost = lost or error.maybe_done
            found = find() if error.maybe_done else None
            if found is None:
                raise
            return None, found, True

    return compare_and_set(send, when=lambda error: error.maybe_done)


def _created(
    gorilla: HealthGorillaClient, plan: Enroll, answer: Answer, *, login: str, find: Find, issues: tuple[Issue, ...]
) -> Account:
    """The account that a create made; its body may be empty, so the account is read, or looked for."""
    role_id = created_id(answer, "PractitionerRole")
    found = (_read(gorilla, role_id) if role_id else None) or find()
    requested = {hg.bare_id(reference) for reference in plan.account.locations}
    ignored = found is not None and bool(requested) and accounts.locations_of(found.role) != requested
    known, told = (found.id, found.login) if found else (None, None)
    return Account(known or plan.directory_id or None, told or login, (*issues, *_ignored(ignored)))


def _read(gorilla: HealthGorillaClient, role_id: str) -> Enrollment | None:
    """The account, or None where it is not shown yet: it was made all the same."""
    try:
        return gorilla.enrollment(role_id)
    except PermanentError as error:
        if error.status != 404:
            raise
        return None


def _refusal(answer: Answer | None, login: str = "") -> BotError:
    """The error of a refusal, by its cause where the answer says one."""
    if answer is None or answer.status == 202 or _is_busy(answer):
        return TransientError(
            "Health Gorilla is still busy with the same request; sync again later.",
            service="Health Gorilla",
            status=answer.status if answer else None,
            method="POST",
            path="PractitionerRole",
            code="enrolment-in-flight",
        )
    cause = refusals.reason(answer.outcome(), login=login)
    if cause is not refusals.UNKNOWN:
        kind = LoginTaken if cause.code == refusals.LOGIN_TAKEN else InputError
        return kind(cause.text, code=cause.code)
    error = answer.error()
    if isinstance(error, PermanentError):
        error.code = cause.code
    return error


def _is_busy(answer: Answer) -> bool:
    """True for a 409 that reports a concurrent change; the rules read one that reports a duplicate."""
    if answer.status != 409:
        return False
    outcome = answer.outcome()
    issues = outcome.get("issue")
    told = [issue.get("code") for issue in issues if isinstance(issue, dict)] if isinstance(issues, list) else []
    return not answer.body.strip() or ("conflict" in told and refusals.reason(outcome) is refusals.UNKNOWN)
