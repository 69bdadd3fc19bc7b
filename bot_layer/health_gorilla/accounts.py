"""Accounts are created and changed in Health Gorilla exactly once, even if answers are lost or logins are taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from bot_layer.errors import BotError, InputError, PermanentError, TransientError
from bot_layer.fhir.json import Json, objects
from bot_layer.fhir.outcomes import Issue, warning
from bot_layer.fhir.validation import require_valid
from bot_layer.health_gorilla.client import HealthGorillaClient, created_id
from bot_layer.health_gorilla.rules import accounts, enrollment, refusals
from bot_layer.health_gorilla.rules import settings as hg
from bot_layer.health_gorilla.rules.enrollment import Decision, Enroll, Enrollment, Update
from bot_layer.http.answer import Answer
from bot_layer.http.retry import compare_and_set, write_planned

Find = Callable[[], Enrollment | None]
Replan = Callable[[], Update]


@dataclass(frozen=True)
class Account:
    """The account after the call. ``login`` is None if neither side has it.

    ``issues`` say what Health Gorilla did not accept; ``accepted`` is False where it accepted nothing of a change.
    ``existing`` is the account that was found instead of a new one; ``maybe_made`` is True where an answer of this call
    was lost, so that this call may have made it.
    """

    health_gorilla_id: str | None = field(repr=False)
    login: str | None = field(repr=False)
    issues: tuple[Issue, ...] = ()
    accepted: bool = True
    existing: Enrollment | None = field(default=None, repr=False)
    maybe_made: bool = False


class LoginTaken(InputError):
    """The last login is taken by an account that was not found. ``maybe_made`` as in Account."""

    maybe_made = False


class _Conflict(TransientError):
    """The account was changed by others in the meantime; ``refused`` is Health Gorilla's report."""

    def __init__(self, status: int, refused: BotError) -> None:
        super().__init__(refused.message, service="Health Gorilla", status=status)
        self.refused = refused


def carry_out(
    gorilla: HealthGorillaClient,
    decision: Decision,
    *,
    find: Find,
    plan: Callable[[Enrollment], Update],
    find_by_login: Find | None = None,
    known: Sequence[Enrollment] = (),
    login: str | None = None,
) -> tuple[str, Account]:
    """The action taken, and the account afterwards. An account that exists, or is found instead of a new one, is
    updated as ``plan`` says.

    The action is a creation only if the account is not among those ``known`` before, and was not found, or was found
    after this call lost an answer. ``find_by_login`` finds the account whose login turns out to be taken. ``login`` is
    the one that an existing account has where Health Gorilla does not show it.
    """
    action = decision.action
    if isinstance(decision, Enroll):
        try:
            account = enroll(gorilla, decision, find)
            # For an hour, Health Gorilla repeats its first answer to the same create.
            before = next((each for each in known if each.id == account.health_gorilla_id), None)
            existing, maybe_made, login = before or account.existing, account.maybe_made and not before, account.login
            if existing is None:
                return action, account
        except LoginTaken as refused:
            find = find_by_login or (lambda: None)
            existing, maybe_made, login = find(), refused.maybe_made, decision.logins[0]
            if existing is None:
                raise
        decision = plan(existing)
        action = action if maybe_made else decision.action
    account = update(gorilla, decision, lambda: plan(enrollment.require_found(find())))
    if action == "updated" and not account.accepted:
        action = "unchanged"
    return action, replace(account, login=account.login or login)


def enroll(gorilla: HealthGorillaClient, plan: Enroll, find: Find) -> Account:
    """The account, created once: if an answer is lost, ``find`` looks for the account before anything is sent again.

    If a login or an e-mail address is taken, the next one is tried, and after the last address none. InputError or
    PermanentError where Health Gorilla refuses.
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
        # Whatever the refusal says: if the person has an account by now, no second one is created.
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


def update(gorilla: HealthGorillaClient, plan: Update, replan: Replan) -> Account:
    """The account after the PUT; on a conflict or a lost answer it is planned again from the current account."""
    taken = 0

    def write(current: Update) -> Account:
        nonlocal taken
        found = current.found
        if not current.payload:
            return Account(found.id, found.login)
        email = current.emails[taken] if taken < len(current.emails) else None
        issues = _without_email(current.emails, email)
        if email is None and not current.required:
            return Account(found.id, found.login, issues, accepted=False)
        payload = current.with_email(email)
        require_valid(payload)
        answer = gorilla.update("PractitionerRole", payload)
        if answer.ok and not current.moves:
            return Account(found.id, found.login, issues)
        if answer.ok:
            return _after_move(gorilla, current, issues, email=email)
        refused = _refusal(answer)
        if email is not None and refused.code == refusals.EMAIL_TAKEN:
            taken += 1
            return write(current)
        raise _Conflict(answer.status, refused) if answer.status in {409, 412} else refused

    try:
        return write_planned(plan, write, replan)
    except _Conflict as conflict:
        raise conflict.refused from None


def _after_move(gorilla: HealthGorillaClient, done: Update, issues: tuple[Issue, ...], *, email: str | None) -> Account:
    """The account read back, because releases before July 2026 ignore the locations silently."""
    now = gorilla.enrollment(str(done.found.role["id"]))
    ignored = accounts.locations_of(now.role) != accounts.locations_of(done.payload)
    accepted = not (ignored and done.only_moves and email is None)
    return Account(now.id, now.login, (*issues, *_ignored(ignored)), accepted)


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
            return gorilla.create("PractitionerRole", payload), None, lost
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
    """The account after a create: the answer may have no body, so the account is read or searched."""
    role_id = created_id(answer, "PractitionerRole")
    found = (_read(gorilla, role_id) if role_id else None) or find()
    requested = {hg.bare_id(reference) for reference in plan.account.locations}
    ignored = found is not None and bool(requested) and accounts.locations_of(found.role) != requested
    known, shown = (found.id, found.login) if found else (None, None)
    return Account(known or plan.directory_id or None, shown or login, (*issues, *_ignored(ignored)))


def _read(gorilla: HealthGorillaClient, role_id: str) -> Enrollment | None:
    """The account, or None where Health Gorilla does not show it yet."""
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
    outcome = answer.outcome()
    codes = [issue.get("code") for issue in objects(outcome.get("issue"))]
    is_conflict = "conflict" in codes and refusals.reason(outcome) is refusals.UNKNOWN
    return answer.status == 409 and (is_conflict or not answer.body.strip())
