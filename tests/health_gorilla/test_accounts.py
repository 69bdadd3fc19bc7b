"""Accounts created and changed exactly once: lost answers, taken logins and addresses, the result of each refusal."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests
import responses

from bot_layer.errors import AuthError, BotError, InputError, PermanentError, TransientError
from bot_layer.fhir.identifiers import account_number
from bot_layer.fhir.json import Json
from bot_layer.health_gorilla import accounts as accounts_there
from bot_layer.health_gorilla.accounts import Account
from bot_layer.health_gorilla.client import HealthGorillaClient
from bot_layer.health_gorilla.rules import accounts, enrollment
from bot_layer.health_gorilla.rules import settings as hg
from bot_layer.health_gorilla.rules.account_request import AccountRequest
from bot_layer.health_gorilla.rules.enrollment import Enroll, Enrollment, Update
from bot_layer.http.policy import RetryPolicy
from bot_layer.http.transport import Transport
from medplum_sandbox.health_gorilla import HealthGorillaSandbox, Switches, npi
from tests.health_gorilla.clinicians import (
    ENTRY,
    NUMBER,
    RECORD,
    clinician,
    enrolled,
    entry,
    practitioner,
    read,
    settings,
)

BASE = "https://hg.example/fhir/R4"
TOKEN_URL = "https://hg.example/oauth/token"
ROLE_URL = f"{BASE}/PractitionerRole"
TRANSPORT = Transport("Health Gorilla", RetryPolicy(retries=0, backoff=0.0, longest_wait=0.0))
EMAILS = ("a@practice.example", "b@practice.example")
_NUMBERS = itertools.count()


# A partner whose answers a test writes


def client() -> HealthGorillaClient:
    responses.post(TOKEN_URL, json={"access_token": "token-1", "expires_in": 3600})
    given = settings(BASE_URL=BASE, TOKEN_URL=TOKEN_URL, CLIENT_ID=f"accounts-{next(_NUMBERS)}")
    return HealthGorillaClient(given, TRANSPORT)


def plan(requested: AccountRequest | None = None, **changes: Any) -> Enroll:
    return enrollment.plan_enrollment(clinician(**changes), ENTRY, requested or AccountRequest(), settings())


def change(requested: AccountRequest) -> Update:
    decision = enrollment.plan_update(clinician(), enrolled(), requested)
    assert decision.payload
    return decision


def outcome(text: str) -> Json:
    return {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "x", "diagnostics": text}]}


def answers(method: str, *given: tuple[int, Any]) -> None:
    url = ROLE_URL if method == "POST" else f"{ROLE_URL}/role-1"
    for status, body in given:
        if isinstance(body, Exception):
            responses.add(method, url, body=body)
        elif isinstance(body, str):
            responses.add(method, url, body=body, status=status)
        else:
            responses.add(method, url, json=body, status=status)


def sent(method: str) -> list[Json]:
    """The PractitionerRoles that were sent."""
    calls = [call.request for call in responses.calls if call.request.method == method]
    return [json.loads(call.body or b"{}") for call in calls if str(call.url).startswith(ROLE_URL)]


def logins() -> list[str | None]:
    return [accounts.login_of(role["contained"][0]) for role in sent("POST")]


def emails(method: str) -> list[list[str]]:
    return [accounts.emails_of(role["contained"][0]) for role in sent(method)]


def nobody() -> Enrollment | None:
    return None


def finds(*found: Enrollment | None) -> Callable[[], Enrollment | None]:
    """The result of each search; the last one repeats."""
    left = list(found)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


def codes(account: Account) -> list[str]:
    return [issue.code for issue in account.issues]


def refused(call: Callable[[], Account]) -> BotError:
    with pytest.raises(BotError) as caught:
        call()
    return caught.value


TAKEN_LOGIN = (409, outcome("A user with this login already exists."))
TAKEN_EMAIL = (422, outcome("A user with this e-mail already exists."))
LOST = (0, requests.ConnectionError("reset"))
MADE = (201, enrolled(login="told").role)
READ = enrolled(login="told").role


# Enrolling


@responses.activate
def test_a_created_account_is_read_because_its_body_may_be_empty() -> None:
    """Location names it; id and login come from Health Gorilla's record."""
    gorilla = client()
    responses.post(ROLE_URL, status=201, headers={"Location": f"{ROLE_URL}/role-1/_history/1"})
    responses.get(f"{ROLE_URL}/role-1", json=READ)
    account = accounts_there.enroll(gorilla, plan(), nobody)
    assert account == Account("hg-1", "told")
    assert len(sent("POST")) == 1


@responses.activate
def test_an_account_that_nothing_names_is_looked_for() -> None:
    """Without Location and body; if it is not found yet, the directory's id and the login that was sent stand."""
    answers("POST", (201, ""))
    assert accounts_there.enroll(client(), plan(), finds(enrolled(login="told"))) == Account("hg-1", "told")
    made = plan()
    assert accounts_there.enroll(client(), made, nobody) == Account("hg-1", made.logins[0])


@responses.activate
def test_a_lost_answer_is_settled_by_a_look() -> None:
    """The account that is there is taken, and nothing is sent again."""
    answers("POST", LOST)
    found = enrolled(login=None)
    made = plan()
    account = accounts_there.enroll(client(), made, finds(found))
    assert account == Account("hg-1", made.logins[0], existing=found, maybe_made=True)
    assert len(sent("POST")) == 1


@responses.activate
@pytest.mark.parametrize("failure", [LOST, (500, ""), (503, outcome("busy")), (201, "<html>")])
def test_a_request_that_was_not_carried_out_is_repeated_with_the_same_key(failure: tuple[int, Any]) -> None:
    """After a search that found no account; a page in place of an answer leads to a search too."""
    gorilla = client()
    answers("POST", failure, MADE)
    responses.get(f"{ROLE_URL}/role-1", json=READ)
    account = accounts_there.enroll(gorilla, plan(), nobody)
    keys = {call.request.headers.get("HG-Idempotency-Key") for call in responses.calls if call.request.url == ROLE_URL}
    assert (account.health_gorilla_id, len(keys)) == ("hg-1", 1)
    assert len(sent("POST")) == (1 if failure[0] == 201 else 2)


@responses.activate
def test_answers_that_are_always_lost_are_given_up() -> None:
    """Three times, with a look after each; the host tries again later."""
    looks: list[None] = []

    def find() -> None:
        looks.append(None)

    answers("POST", LOST)
    error = refused(lambda: accounts_there.enroll(client(), plan(), find))
    assert isinstance(error, TransientError)
    assert (error.maybe_done, len(sent("POST")), len(looks)) == (True, 3, 3)


@responses.activate
def test_a_rate_limit_is_reported_at_once() -> None:
    """429: nothing was done, so no search follows."""
    answers("POST", (429, ""))
    error = refused(lambda: accounts_there.enroll(client(), plan(), lambda: pytest.fail("nothing to look for")))
    assert isinstance(error, TransientError)
    assert (error.status, len(sent("POST"))) == (429, 1)


@responses.activate
def test_a_login_that_is_taken_makes_way_for_the_next() -> None:
    """In the order of the plan, each sent once."""
    answers("POST", TAKEN_LOGIN, TAKEN_LOGIN, MADE)
    responses.get(f"{ROLE_URL}/role-1", json=enrolled(login=None).role)
    made = plan()
    account = accounts_there.enroll(client(), made, nobody)
    assert logins() == list(made.logins[:3])
    assert account.login == made.logins[2]


@responses.activate
def test_medplums_own_login_is_never_exchanged() -> None:
    """A login that a person has set is the only one: if it is taken, the caller gets an error."""
    answers("POST", TAKEN_LOGIN)
    known = accounts.with_login(practitioner(), "amara")
    made = enrollment.plan_enrollment(read(known), ENTRY, AccountRequest(), settings())
    error = refused(lambda: accounts_there.enroll(client(), made, nobody))
    assert isinstance(error, InputError)
    assert (error.code, logins()) == ("login-taken", ["amara"])


@responses.activate
def test_an_address_that_is_taken_makes_way_for_the_next_and_at_last_for_none() -> None:
    """The login stays the same, and the answer says that no address was accepted."""
    answers("POST", TAKEN_EMAIL, TAKEN_EMAIL, MADE)
    responses.get(f"{ROLE_URL}/role-1", json=READ)
    account = accounts_there.enroll(client(), plan(AccountRequest(emails=EMAILS)), nobody)
    assert emails("POST") == [[EMAILS[0]], [EMAILS[1]], []]
    assert len(set(logins())) == 1
    assert codes(account) == ["email-taken"]


@responses.activate
def test_an_address_that_is_accepted_is_not_spoken_of() -> None:
    """An address that was not requested is not mentioned either."""
    answers("POST", MADE)
    responses.get(f"{ROLE_URL}/role-1", json=READ)
    for requested in (AccountRequest(emails=EMAILS), AccountRequest()):
        assert codes(accounts_there.enroll(client(), plan(requested), nobody)) == []


@responses.activate
def test_a_refusal_about_an_address_without_any_is_a_refusal() -> None:
    """It does not loop forever."""
    answers("POST", TAKEN_EMAIL)
    error = refused(lambda: accounts_there.enroll(client(), plan(), nobody))
    assert (error.code, len(sent("POST"))) == ("email-taken", 1)


@responses.activate
@pytest.mark.parametrize("answer", [TAKEN_LOGIN, (202, ""), (409, ""), (422, outcome("This is already enrolled"))])
def test_an_account_created_meanwhile_is_kept(answer: tuple[int, Any]) -> None:
    """Another call was faster: its account is the one, and no second login is tried."""
    answers("POST", answer)
    found = enrolled()
    account = accounts_there.enroll(client(), plan(), finds(found))
    assert account == Account("hg-1", "amara", existing=found)
    assert len(sent("POST")) == 1


@responses.activate
def test_an_account_without_an_id_has_the_directorys() -> None:
    """The person's id is the same in directory and account."""
    answers("POST", TAKEN_LOGIN)
    silent = Enrollment({"practitioner": {"reference": "#pr"}})
    assert accounts_there.enroll(client(), plan(), finds(silent)).health_gorilla_id == "hg-1"


@responses.activate
@pytest.mark.parametrize("answer", [(202, ""), (409, " "), (409, {"issue": ["x", {"code": "conflict"}]})])
def test_a_request_in_flight_requires_no_action_yet(answer: tuple[int, Any]) -> None:
    """202, or 409 without a word or with no other than conflict: the same account is being worked on."""
    answers("POST", answer)
    error = refused(lambda: accounts_there.enroll(client(), plan(), nobody))
    assert isinstance(error, TransientError)
    assert (error.code, error.status) == ("enrolment-in-flight", answer[0])


@responses.activate
@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("The name is not in the NPI directory", "directory-name-mismatch"),
        ("Organization/f-9 is unknown", "laboratory-unknown"),
        ("Organization/tl-9 is unknown", "location-unknown"),
        ("Organization/t-9 is unknown", "tenant-unknown"),
        ("No such tenant", "tenant-unknown"),
        ("A user with this NPI already exists in the tenant", "already-enrolled"),
        ("The practitioner is a member of tenant t-9 already", "already-enrolled"),
        ("Duplicate provider in facility", "already-enrolled"),
        ("The account number is already assigned to another provider of the tenant", "account-number-refused"),
        ("The user of this tenant does not exist at the facility", "laboratory-unknown"),
    ],
)
@pytest.mark.parametrize("status", [400, 409, 422])
def test_a_refusal_with_a_known_cause_is_the_callers_matter(status: int, text: str, code: str) -> None:
    """Whatever its status; Health Gorilla's words are not repeated."""
    answers("POST", (status, outcome(text)))
    error = refused(lambda: accounts_there.enroll(client(), plan(), nobody))
    assert isinstance(error, InputError)
    assert error.code == code
    assert text not in str(error)


@responses.activate
@pytest.mark.parametrize("body", [outcome("Zzyzx"), "<html>Zzyzx", {}, {"issue": "Zzyzx"}])
@pytest.mark.parametrize("status", [409, 422])
def test_a_refusal_without_a_known_cause_is_the_operators_matter(status: int, body: Any) -> None:
    """With its status, and without Health Gorilla's words."""
    answers("POST", (status, body))
    error = refused(lambda: accounts_there.enroll(client(), plan(), nobody))
    assert isinstance(error, PermanentError)
    assert (error.code, error.status) == ("refused-by-health-gorilla", status)
    assert "Zzyzx" not in f"{error} {error.__dict__}"


@responses.activate
def test_missing_rights_are_the_operators_matter() -> None:
    """403: the client lacks create_users, and nothing is tried again."""
    answers("POST", (403, outcome("insufficient_scope")))
    assert isinstance(refused(lambda: accounts_there.enroll(client(), plan(), nobody)), AuthError)
    assert len(sent("POST")) == 1


@responses.activate
def test_invalid_fhir_is_never_sent() -> None:
    """The payload is validated first; the error names the element, not its value."""
    record = {**RECORD, "name": [{"use": "official", "family": "OKONKWO-REYES", "given": ["AMARA"], "zzyzx": 1}]}
    made = enrollment.plan_enrollment(clinician(), entry(record), AccountRequest(), settings())
    error = refused(lambda: accounts_there.enroll(client(), made, nobody))
    assert isinstance(error, InputError)
    assert error.code == "invalid-payload"
    assert "OKONKWO" not in str(error)
    assert sent("POST") == []


@responses.activate
@pytest.mark.parametrize(("place", "expected"), [("tl-1", []), ("tl-2", ["location-ignored"])])
def test_a_new_account_without_its_locations_is_reported(place: str, expected: list[str]) -> None:
    """What Health Gorilla did not accept is reported, and the account remains."""
    answers("POST", MADE)
    responses.get(f"{ROLE_URL}/role-1", json={**READ, "location": [{"reference": f"{BASE}/Organization/{place}"}]})
    account = accounts_there.enroll(client(), plan(AccountRequest(locations=["Organization/tl-1"])), nobody)
    assert (codes(account), account.accepted) == (expected, True)


# Updating


@responses.activate
def test_nothing_to_do_sends_nothing() -> None:
    """The account as it is."""
    assert accounts_there.update(client(), Update(enrolled()), pytest.fail) == Account("hg-1", "amara")
    assert len(responses.calls) == 0


@responses.activate
def test_an_update_is_one_put() -> None:
    """Whole, and without reading it again."""
    answers("PUT", (200, ""))
    made = change(AccountRequest([NUMBER]))
    assert accounts_there.update(client(), made, pytest.fail) == Account("hg-1", "amara")
    assert sent("PUT") == [made.payload]


@responses.activate
@pytest.mark.parametrize("failure", [LOST, (500, ""), (412, outcome("x")), (409, outcome("x")), (409, "")])
def test_an_update_is_planned_again_from_the_current_account(failure: tuple[int, Any]) -> None:
    """Changes by others are kept; if the answer was lost but the change was made, it is not made again."""
    answers("PUT", failure, (200, ""))
    anew = change(AccountRequest([NUMBER, account_number("Organization/f-2", "B-1")]))
    accounts_there.update(client(), change(AccountRequest([NUMBER])), lambda: anew)
    assert sent("PUT")[1] == anew.payload
    settled = accounts_there.update(client(), change(AccountRequest([NUMBER])), lambda: Update(enrolled(NUMBER)))
    assert settled == Account("hg-1", "amara")


@responses.activate
@pytest.mark.parametrize(
    ("failure", "kind", "code"),
    [
        (LOST, TransientError, "service-unreachable"),
        ((412, outcome("x")), PermanentError, "refused-by-health-gorilla"),
        ((409, ""), TransientError, "enrolment-in-flight"),
    ],
)
def test_an_update_that_never_succeeds_is_given_up(failure: tuple[int, Any], kind: type[BotError], code: str) -> None:
    """After three attempts."""
    answers("PUT", failure)
    made = change(AccountRequest([NUMBER]))
    error = refused(lambda: accounts_there.update(client(), made, lambda: made))
    assert isinstance(error, kind)
    assert (error.code, len(sent("PUT"))) == (code, 3)


@responses.activate
@pytest.mark.parametrize(
    ("failure", "code"), [((429, ""), "try-again-later"), ((422, outcome("account number")), "account-number-refused")]
)
def test_rate_limits_and_refusals_of_an_update_are_reported_at_once(failure: tuple[int, Any], code: str) -> None:
    """Nothing was done, and a new plan would not help."""
    answers("PUT", failure)
    error = refused(lambda: accounts_there.update(client(), change(AccountRequest([NUMBER])), pytest.fail))
    assert (error.code, len(sent("PUT"))) == (code, 1)


@responses.activate
def test_an_update_tries_each_address_and_at_last_none() -> None:
    """Other changes are still made."""
    answers("PUT", TAKEN_EMAIL, TAKEN_EMAIL, (200, ""))
    account = accounts_there.update(client(), change(AccountRequest([NUMBER], emails=EMAILS)), pytest.fail)
    assert emails("PUT") == [[EMAILS[0]], [EMAILS[1]], []]
    assert (codes(account), account.accepted) == (["email-taken"], True)


@responses.activate
def test_an_update_of_nothing_but_a_taken_address_did_nothing() -> None:
    """No PUT without an address is sent, and the answer says so."""
    answers("PUT", TAKEN_EMAIL)
    account = accounts_there.update(client(), change(AccountRequest(emails=EMAILS)), pytest.fail)
    assert len(sent("PUT")) == 2
    assert (codes(account), account.accepted) == (["email-taken"], False)


@responses.activate
def test_conflicts_and_taken_addresses_together_end() -> None:
    """The last attempt's refusal is reported."""
    answers("PUT", (412, outcome("x")), TAKEN_EMAIL, (412, outcome("x")), (412, outcome("x")))
    made = change(AccountRequest([NUMBER], emails=EMAILS[:1]))
    error = refused(lambda: accounts_there.update(client(), made, lambda: made))
    assert (error.code, len(sent("PUT"))) == ("refused-by-health-gorilla", 4)


@responses.activate
@pytest.mark.parametrize(
    ("requested", "there", "expected", "accepted"),
    [
        (AccountRequest(locations=["Organization/tl-1"]), "tl-1", [], True),
        (AccountRequest(locations=["Organization/tl-1"]), "tl-2", ["location-ignored"], False),
        (AccountRequest([NUMBER], locations=["Organization/tl-1"]), "tl-2", ["location-ignored"], True),
        (AccountRequest(locations=["Organization/tl-1"], emails=EMAILS), "tl-2", ["location-ignored"], True),
    ],
)
def test_locations_are_read_back(requested: AccountRequest, there: str, expected: list[str], accepted: bool) -> None:
    """Older releases ignore them silently: then the answer says so, and a location-only update did nothing."""
    answers("PUT", (200, ""))
    responses.get(f"{ROLE_URL}/role-1", json={**READ, "location": [{"reference": f"Organization/{there}"}]})
    account = accounts_there.update(client(), change(requested), pytest.fail)
    assert (codes(account), account.accepted, account.login) == (expected, accepted, "told")


def test_no_person_shows_in_the_representation() -> None:
    """An account may be logged."""
    shown = repr(Account("hg-1", "amara", existing=enrolled(NUMBER)))
    for secret in ("hg-1", "amara", "OKONKWO"):
        assert secret not in shown


# The same between the look-alike's faults


@contextmanager
def look_alike(**switches: Any) -> Iterator[tuple[HealthGorillaSandbox, HealthGorillaClient, Enroll]]:
    with HealthGorillaSandbox(switches=Switches(**switches)) as gorilla:
        client_there = HealthGorillaClient(hg.read(gorilla.settings()), TRANSPORT)
        given = {"identifier": [{"system": "http://hl7.org/fhir/sid/us-npi", "value": npi(1)}]}
        named = {**practitioner(), **given, "name": [{"family": "Gorilla", "given": ["Joe"]}]}
        entry = client_there.directory(npi(1))[0]
        yield (
            gorilla,
            client_there,
            enrollment.plan_enrollment(read(named), entry, AccountRequest(), client_there.settings),
        )


@pytest.mark.parametrize("keys", [True, False])
@pytest.mark.parametrize("fault", ["reset_before_write", "reset_after_write", "server_error", "empty_body"])
@pytest.mark.parametrize("combined", [True, False])
def test_nobody_is_created_twice(fault: str, keys: bool, combined: bool) -> None:
    """Whatever happens to the first two answers, and whether idempotency keys are honored or not."""
    with look_alike(idempotency_keys=keys, combined_search=combined) as (gorilla, there, made):
        gorilla.faults.add(fault, times=2, method="POST", path="/PractitionerRole")
        account = accounts_there.enroll(there, made, lambda: enrollment.pick(there.enrollments(npi(1))))
        (role,) = gorilla.roles()
        assert account.health_gorilla_id == gorilla.directory.by_npi(npi(1))[0]["id"]
        assert account.login == accounts.login_of(role["contained"][0]) == made.logins[0]


@pytest.mark.parametrize("clash", [400, 409, 422])
def test_a_login_that_is_taken_elsewhere_is_passed_over(clash: int) -> None:
    """Whatever the status of the refusal."""
    with look_alike(clash_status=clash) as (gorilla, there, made):
        gorilla.state.reserve(login=made.logins[0])
        account = accounts_there.enroll(there, made, lambda: enrollment.pick(there.enrollments(npi(1))))
        assert account.login == made.logins[1]
        assert len(gorilla.roles()) == 1


@responses.activate
def test_a_clash_that_quotes_the_login_is_one_of_the_login() -> None:
    """The next login is tried, although the text mentions only a user and a tenant."""
    first = plan().logins[0]
    answers("POST", (409, outcome(f"User {first.upper()} already exists in the tenant")), (201, ""))
    answers("GET", (200, {"resourceType": "Bundle", "type": "searchset", "total": 0}))
    assert accounts_there.enroll(client(), plan(), nobody).login == plan().logins[1]


@responses.activate
def test_a_clash_without_a_text_is_known_by_its_code() -> None:
    """FHIR's issue code says enough."""
    answers("POST", (409, {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "duplicate"}]}))
    assert refused(lambda: accounts_there.enroll(client(), plan(), nobody)).code == "already-enrolled"
