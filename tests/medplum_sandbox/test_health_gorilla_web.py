"""Faults, idempotency keys and HTTP behavior of the Health Gorilla look-alike."""

from __future__ import annotations

import queue
import threading
import time
import uuid
from collections.abc import Iterator

import pytest
import requests

from medplum_sandbox.faults import Faults
from medplum_sandbox.health_gorilla import HealthGorillaSandbox, Switches
from tests.medplum_sandbox.health_gorilla_caller import LOGIN, Caller, clinical, location_id

KEY = "HG_Idempotency_Key"


@pytest.fixture
def hg() -> Iterator[HealthGorillaSandbox]:
    with HealthGorillaSandbox() as running:
        yield running


@pytest.fixture
def caller(hg: HealthGorillaSandbox) -> Caller:
    return Caller(hg)


def test_a_key_gives_the_first_answer_again(hg: HealthGorillaSandbox, caller: Caller) -> None:
    """The same key and payload: one account, one answer."""
    key = {KEY: str(uuid.uuid4())}
    first, again = (caller.send("POST", "PractitionerRole", clinical(hg), **key) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 201)
    assert location_id(first) == location_id(again)
    assert len(hg.roles()) == 1


def test_a_refusal_is_remembered_too(hg: HealthGorillaSandbox, caller: Caller) -> None:
    """The first answer is returned again even if it was a refusal whose reason no longer exists."""
    key = {KEY: str(uuid.uuid4())}
    body = clinical(hg, extension=[{"url": LOGIN, "valueString": hg.taken_login}])
    assert caller.send("POST", "PractitionerRole", body, **key).status_code == 409
    hg.state.reserved_logins.clear()
    assert caller.send("POST", "PractitionerRole", body, **key).status_code == 409


def test_a_key_with_another_payload_is_a_conflict() -> None:
    """409, with an empty body or, in the other document, an OperationOutcome."""
    for body in ("empty", "outcome"):
        with HealthGorillaSandbox(switches=Switches().but(key_conflict_body=body)) as hg:
            caller, key = Caller(hg), {KEY: str(uuid.uuid4())}
            caller.send("POST", "PractitionerRole", clinical(hg), **key)
            answer = caller.send("POST", "PractitionerRole", clinical(hg, 2), **key)
            assert (answer.status_code, answer.content == b"") == (409, body == "empty")
            assert len(hg.roles()) == 1


def test_a_key_in_flight_is_202(hg: HealthGorillaSandbox) -> None:
    """While the first request runs, the second gets an answer to wait, without a body."""
    key = {KEY: str(uuid.uuid4())}
    answers = queue.Queue[requests.Response]()

    def post(caller: Caller) -> None:
        answers.put(caller.send("POST", "PractitionerRole", clinical(hg), **key))

    threads = [threading.Thread(target=post, args=(Caller(hg),)) for _ in range(2)]
    body_of = {}
    with hg.state.lock:  # the request that takes the key waits here; the other gets its answer
        for thread in threads:
            thread.start()
        waiting = answers.get(timeout=240)
        body_of[waiting.status_code] = waiting.content
    done = answers.get(timeout=240)
    for thread in threads:
        thread.join(timeout=240)
    assert (body_of, done.status_code, len(hg.roles())) == ({202: b""}, 201, 1)


def test_keys_are_forgotten_after_an_hour_and_may_be_ignored() -> None:
    """After that, or if the switch says so, the request is carried out again: here a conflict."""
    key = {KEY: str(uuid.uuid4())}
    now = [time.time()]
    with HealthGorillaSandbox(clock=lambda: now[0], switches=Switches(expires_in=9999)) as hg:
        caller = Caller(hg)
        assert caller.send("POST", "PractitionerRole", clinical(hg), **key).status_code == 201
        now[0] += 3601
        assert caller.send("POST", "PractitionerRole", clinical(hg), **key).status_code == 409
    with HealthGorillaSandbox(switches=Switches(idempotency_keys=False)) as hg:
        caller = Caller(hg)
        statuses = [caller.send("POST", "PractitionerRole", clinical(hg), **key).status_code for _ in range(2)]
        assert statuses == [201, 409]


def test_a_key_belongs_to_one_url(hg: HealthGorillaSandbox, caller: Caller) -> None:
    """The same key and body at another type is another payload."""
    key = {KEY: str(uuid.uuid4())}
    assert caller.send("POST", "Organization", clinical(hg), **key).status_code == 400
    assert caller.send("POST", "PractitionerRole", clinical(hg), **key).status_code == 409
    assert hg.roles() == []


@pytest.mark.parametrize("key", ["1", str(uuid.uuid5(uuid.NAMESPACE_URL, "x"))])
def test_a_key_is_a_random_uuid(hg: HealthGorillaSandbox, caller: Caller, key: str) -> None:
    """The documents ask for UUID v4; any other key is 400, and no account is created."""
    assert caller.send("POST", "PractitionerRole", clinical(hg), **{KEY: key}).status_code == 400
    assert hg.roles() == []


def test_too_many_with_and_without_retry_after() -> None:
    """429 once; a switch sets Retry-After."""
    for says in (True, False):
        faults = Faults()
        with HealthGorillaSandbox(faults=faults, switches=Switches(rate_limit_retry_after=says)) as hg:
            caller = Caller(hg)
            faults.add("too_many", times=1)
            answer = caller.send("GET", "PractitionerRole")
            assert (answer.status_code, answer.headers.get("Retry-After")) == (429, "1" if says else None)
            assert caller.send("GET", "PractitionerRole").status_code == 200


def test_errors_pages_and_conflicts_replace_the_answer(hg: HealthGorillaSandbox, caller: Caller) -> None:
    """503, an HTML page, a 409: the account is not created."""
    for kind, status, content_type in (
        ("server_error", 503, "application/fhir+json"),
        ("html", 502, "text/html"),
        ("conflict", 409, "application/fhir+json"),
    ):
        hg.faults.add(kind, times=1, status=status)
        answer = caller.send("POST", "PractitionerRole", clinical(hg))
        assert answer.status_code == status
        assert answer.headers["Content-Type"].startswith(content_type)
    assert hg.roles() == []


def test_a_body_may_get_lost(hg: HealthGorillaSandbox, caller: Caller) -> None:
    """empty_body keeps the status and drops the content."""
    hg.faults.add("empty_body", times=1)
    answer = caller.send("GET", "PractitionerRole")
    assert (answer.status_code, answer.content) == (200, b"")


def test_a_token_may_be_said_to_have_expired(hg: HealthGorillaSandbox, caller: Caller) -> None:
    """expired_token strikes FHIR requests only: a new token can be had."""
    hg.faults.add("expired_token", times=1, path="/fhir/")
    answer = caller.send("GET", "PractitionerRole")
    assert (answer.status_code, answer.json()["error"]) == (401, "expired_token")
    hg.faults.clear()
    hg.faults.add("expired_token")
    assert Caller(hg).send("GET", "PractitionerRole").status_code == 401


@pytest.mark.parametrize(("kind", "made"), [("reset_before_write", 0), ("reset_after_write", 1)])
def test_a_connection_may_be_cut(hg: HealthGorillaSandbox, caller: Caller, kind: str, made: int) -> None:
    """The answer is lost; the account may or may not exist; a retry with the same key shows it."""
    key = {KEY: str(uuid.uuid4())}
    hg.faults.add(kind, times=1)
    with pytest.raises(requests.ConnectionError):
        caller.send("POST", "PractitionerRole", clinical(hg), **key)
    assert len(hg.roles()) == made
    assert caller.send("POST", "PractitionerRole", clinical(hg), **key).status_code == 201
    assert [(r.method, r.status) for r in hg.requests[1:]] == [("POST", 0), ("POST", 201)]


def test_an_answer_may_be_slow(hg: HealthGorillaSandbox, caller: Caller) -> None:
    """If it is slower than the caller's timeout, the caller gives up."""
    hg.faults.add("slow", times=1, seconds=0.3)
    with pytest.raises(requests.Timeout):
        caller.session.get(f"{hg.base_url}/PractitionerRole", timeout=0.05)


def test_requests_are_counted(hg: HealthGorillaSandbox, caller: Caller) -> None:
    """Method, path and status of every request, token requests included; the count can be reset."""
    caller.send("GET", "PractitionerRole?_count=1")
    assert [(r.method, r.path, r.status, r.query) for r in hg.requests] == [
        ("POST", "/oauth/token", 200, ""),
        ("GET", "/fhir/R4/PractitionerRole", 200, "_count=1"),
    ]
    hg.clear_requests()
    assert hg.requests == []


def test_every_answer_can_be_traced(caller: Caller) -> None:
    """X-HG-Request-Id always; the caller's X-Request-Id is returned as X-Correlation-Id."""
    answer = caller.send("GET", "PractitionerRole", X_Request_Id="mine")
    assert uuid.UUID(answer.headers["X-HG-Request-Id"])
    assert answer.headers["X-Correlation-Id"] == "mine"


def test_the_content_type_is_a_switch() -> None:
    """application/fhir+json, or as older samples application/json."""
    for kind in ("application/fhir+json", "application/json"):
        with HealthGorillaSandbox(switches=Switches().but(content_type=kind)) as hg:
            assert Caller(hg).send("GET", "PractitionerRole").headers["Content-Type"].startswith(kind)


def test_bodies_are_limited_and_must_be_json(hg: HealthGorillaSandbox, caller: Caller) -> None:
    """More than 1 MB is 413, no JSON is 400, another content type 415."""
    url = f"{hg.base_url}/PractitionerRole"
    assert caller.session.post(url, data=b" " * (1024 * 1024 + 1), timeout=240).status_code == 413
    assert caller.session.post(url, data=b"{", timeout=240).status_code == 400
    kind = {"Content-Type": "text/plain"}
    assert caller.session.post(url, data=b"{}", headers=kind, timeout=240).status_code == 415
    assert caller.session.post(url, data=b"[]", timeout=240).status_code == 400


def test_odd_paths(hg: HealthGorillaSandbox, caller: Caller) -> None:
    """A double slash is 400 without a body, as the real one's; elsewhere is 404; metadata needs no token."""
    answer = caller.session.get(f"{hg.base_url}//PractitionerRole", timeout=240)
    assert (answer.status_code, answer.content) == (400, b"")
    assert requests.get(hg.base_url.removesuffix("/fhir/R4") + "/nowhere", timeout=240).status_code == 404
    statement = requests.get(f"{hg.base_url}/metadata", timeout=240).json()
    roles = next(r for r in statement["rest"][0]["resource"] if r["type"] == "PractitionerRole")
    assert [i["code"] for i in roles["interaction"]] == ["create", "read", "update", "search-type"]


def test_parallel_creates_make_one_account(hg: HealthGorillaSandbox) -> None:
    """Eight at once, without keys: one wins, the others clash."""
    callers = [Caller(hg) for _ in range(8)]
    statuses = queue.Queue[int]()

    def post(one: Caller) -> None:
        statuses.put(one.send("POST", "PractitionerRole", clinical(hg)).status_code)

    threads = [threading.Thread(target=post, args=(one,)) for one in callers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=240)
    assert sorted(statuses.queue) == [201] + [409] * 7
    assert len(hg.roles()) == 1
