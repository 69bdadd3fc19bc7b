"""Medplum through pymedplum, against the look-alike: what is repeated, what is not, and the result of each failure."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bot_layer.bot.event import Event
from bot_layer.errors import (
    AuthError,
    BotError,
    ConfigError,
    InputError,
    PermanentError,
    ReviewNeeded,
    ServiceError,
    TransientError,
)
from bot_layer.fhir.json import Json
from bot_layer.http.policy import RetryPolicy
from bot_layer.medplum import client as medplum
from bot_layer.medplum.client import Medplum
from medplum_sandbox.medplum import MedplumSandbox

UNKNOWN = "Patient/5a9dbc00-0000-4000-8000-00000000ffff"
SYSTEM = "https://clinic.example"
AT_ONCE = RetryPolicy(retries=2, backoff=0.0, longest_wait=0.0)
HASTE = {"BOT_RETRIES": "2", "BOT_BACKOFF_SECONDS": "0", "BOT_LONGEST_WAIT_SECONDS": "0"}


@pytest.fixture
def sandbox() -> Iterator[MedplumSandbox]:
    with MedplumSandbox(quota=1_000_000) as running:
        yield running


@pytest.fixture
def server(sandbox: MedplumSandbox) -> Medplum:
    return connected(sandbox)


def connected(sandbox: MedplumSandbox) -> Medplum:
    return medplum.connect(Event(f"{sandbox.base_url}/", sandbox.token_for(), None, secrets=HASTE))


def patient(**changes: object) -> Json:
    return {"resourceType": "Patient", "identifier": [{"system": SYSTEM, "value": "1"}], **changes}


def stored(server: Medplum, **changes: object) -> tuple[str, Json]:
    made = server.create(patient(**changes))
    return f"Patient/{made['id']}", made


def asked(sandbox: MedplumSandbox, method: str, part: str = "/fhir/R4/Patient") -> list[int]:
    """The statuses of the requests so far."""
    return [found.status for found in sandbox.requests if found.method == method and part in found.path]


def lost(call: Callable[[], object]) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        call()
    return caught.value


# Reads


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_read_is_repeated_while_medplum_fails(sandbox: MedplumSandbox, server: Medplum, status: int) -> None:
    """Two failures, then the third answer counts."""
    reference, made = stored(server)
    sandbox.faults.add("server_error", times=2, method="GET", status=status)
    assert server.read(reference) == made
    assert asked(sandbox, "GET") == [status, status, 200]


@pytest.mark.parametrize("kind", ["too_many", "reset_before_write"])
def test_a_read_is_repeated_after_429_and_a_broken_connection(
    sandbox: MedplumSandbox, server: Medplum, kind: str
) -> None:
    """Reading changes nothing, so it may be done again."""
    reference, made = stored(server)
    sandbox.faults.add(kind, times=2, method="GET")
    assert server.read(reference) == made
    assert len(asked(sandbox, "GET")) == 3


def test_a_read_is_given_up_after_its_repetitions(sandbox: MedplumSandbox, server: Medplum) -> None:
    """The last failure is reported as status, method and path template."""
    reference, _ = stored(server)
    sandbox.faults.add("server_error", method="GET", status=503)
    error = lost(lambda: server.read(reference))
    assert isinstance(error, TransientError)
    assert (error.status, error.method, error.path, error.maybe_done) == (503, "GET", "Patient/{id}", False)
    assert asked(sandbox, "GET") == [503, 503, 503]


def test_the_wait_doubles_and_is_bounded(sandbox: MedplumSandbox, server: Medplum) -> None:
    """Waiting is the caller's function, so no test sleeps."""
    waits: list[float] = []
    slow = replace(server, patience=RetryPolicy(retries=4, backoff=0.5, longest_wait=3.0), wait=waits.append)
    sandbox.faults.add("server_error", method="GET")
    lost(lambda: slow.read(UNKNOWN))
    assert waits == [0.5, 1.0, 2.0, 3.0]


@pytest.mark.parametrize(("longest", "most"), [(5.0, 5.0), (120.0, 60.0)])
def test_a_used_up_quota_is_waited_for_as_long_as_medplum_says(longest: float, most: float) -> None:
    """t of the RateLimit header is the wait, within the longest that is allowed."""
    waits: list[float] = []
    with MedplumSandbox(quota=100) as sandbox:
        reference, _ = stored(connected(sandbox))
        patience = RetryPolicy(retries=1, backoff=0.0, longest_wait=longest)
        error = lost(lambda: replace(connected(sandbox), patience=patience, wait=waits.append).read(reference))
    assert isinstance(error, TransientError)
    assert (error.status, len(waits)) == (429, 1)
    assert error.retry_after is not None
    assert 0 < error.retry_after <= 60
    assert 0 < waits[0] <= most


def test_a_search_returns_the_resources_of_its_type(server: Medplum) -> None:
    """Included resources of other types are left out."""
    reference, _ = stored(server)
    observation = server.create(
        {"resourceType": "Observation", "status": "final", "code": {"text": "x"}, "subject": {"reference": reference}}
    )
    query = [("_include", "Observation:subject")]
    assert [found["id"] for found in server.search("Observation", query)] == [observation["id"]]
    assert [found["id"] for found in server.search_all("Observation", query)] == [observation["id"]]


def test_every_page_of_a_search_is_read(sandbox: MedplumSandbox, server: Medplum) -> None:
    """Page by page, each resource once, and no page more than is needed."""
    ids = {server.create(patient())["id"] for _ in range(5)}
    found = [resource["id"] for resource in server.search_all("Patient", [("_count", "2"), ("_sort", "_id")])]
    assert (len(found), set(found)) == (5, ids)
    assert len(asked(sandbox, "GET")) == 3
    assert list(server.search_all("Patient", [("identifier", "https://x.example|nobody")])) == []


def test_other_paths_of_the_server_can_be_read_and_called(server: Medplum) -> None:
    """The admin endpoints; an error shows only the first word of their paths."""
    assert "profile" in server.get("auth/me")
    assert server.post("fhir/R4/Patient", patient())["resourceType"] == "Patient"
    with pytest.raises(InputError, match="no admin,"):
        server.get("admin/nothing/secret-name")


# Creating


@pytest.mark.parametrize("kind", ["server_error", "reset_before_write", "reset_after_write"])
def test_a_create_is_never_repeated(sandbox: MedplumSandbox, server: Medplum, kind: str) -> None:
    """It may have been done: the caller must check first."""
    sandbox.faults.add(kind, times=1, method="POST")
    error = lost(lambda: server.create(patient()))
    assert isinstance(error, TransientError)
    assert (error.maybe_done, error.method, error.path) == (True, "POST", "Patient")
    assert len(asked(sandbox, "POST")) == 1
    assert len(server.search("Patient", [])) == (1 if kind == "reset_after_write" else 0)


def test_a_create_that_was_refused_for_haste_was_not_done(sandbox: MedplumSandbox, server: Medplum) -> None:
    """Medplum answers 429 before it acts."""
    sandbox.faults.add("too_many", times=1, method="POST")
    error = lost(lambda: server.create(patient()))
    assert isinstance(error, TransientError)
    assert (error.status, error.maybe_done) == (429, False)
    assert len(asked(sandbox, "POST")) == 1


def test_a_post_elsewhere_is_never_repeated(sandbox: MedplumSandbox, server: Medplum) -> None:
    """Neither are batches."""
    sandbox.faults.add("server_error", method="POST")
    for call in (lambda: server.post("fhir/R4/Patient", patient()), lambda: server.batch([])):
        error = lost(call)
        assert isinstance(error, TransientError)
        assert error.maybe_done
    assert len(asked(sandbox, "POST", "/fhir/R4")) == 2


@pytest.mark.parametrize("kind", ["server_error", "too_many", "reset_after_write", "conflict"])
def test_a_conditional_create_is_repeated_and_creates_once(sandbox: MedplumSandbox, server: Medplum, kind: str) -> None:
    """If-None-Exist finds the resource whose answer was lost; 409 is the answer to two creates at once."""
    sandbox.faults.add(kind, times=2, method="POST")
    query = f"identifier={SYSTEM}|1"
    made = server.create_once(patient(), query)
    assert server.create_once(patient(), query)["id"] == made["id"]
    assert [found["id"] for found in server.search("Patient", [])] == [made["id"]]


def test_an_ambiguous_conditional_create_is_reported_at_once(sandbox: MedplumSandbox, server: Medplum) -> None:
    """412 stays 412, however often it is asked."""
    stored(server), stored(server)  # fmt: skip
    error = lost(lambda: server.create_once(patient(), f"identifier={SYSTEM}|1"))
    assert (error.status, error.code) == (412, "edit-conflict")
    assert asked(sandbox, "POST") == [201, 201, 412]


# Changing


def test_a_change_that_changes_nothing_writes_nothing(sandbox: MedplumSandbox, server: Medplum) -> None:
    """No write, no new version, no event."""
    reference, made = stored(server)
    assert server.change(reference, lambda now: now) == made
    assert asked(sandbox, "PUT") == []


def test_a_change_keeps_what_others_wrote_meanwhile(sandbox: MedplumSandbox, server: Medplum) -> None:
    """On 412 it is read again and changed again."""
    reference, _ = stored(server)
    seen: list[Json] = []

    def change(now: Json) -> Json:
        seen.append(now)
        if len(seen) <= 2:
            others = [*now.get("name", []), {"family": f"Edit{len(seen)}"}]
            server.update({**now, "name": others})
        return {**now, "active": True}

    changed = server.change(reference, change)
    assert (changed["active"], [name["family"] for name in changed["name"]]) == (True, ["Edit1", "Edit2"])
    assert asked(sandbox, "PUT") == [200, 412, 200, 412, 200]


def test_a_change_may_refuse(sandbox: MedplumSandbox, server: Medplum) -> None:
    """An exception of the pure change is raised unchanged, and nothing is written."""
    reference, _ = stored(server)
    no = ReviewNeeded("Settle it first.")

    def refuse(_: Json) -> Json:
        raise no

    with pytest.raises(ReviewNeeded) as caught:
        server.change(reference, refuse)
    assert caught.value is no
    assert asked(sandbox, "PUT") == []


def test_a_change_is_given_up_after_its_attempts(server: Medplum) -> None:
    """Each time another client is faster: the host tries again later."""
    reference, _ = stored(server)
    count = iter(range(100))

    def too_late(now: Json) -> Json:
        server.update({**now, "name": [{"family": f"Edit{next(count)}"}]})
        return {**now, "active": True}

    error = lost(lambda: server.change(reference, too_late, tries=2))
    assert (error.status, error.code, error.path) == (412, "edit-conflict", "Patient/{id}")
    assert next(count) == 2


@pytest.mark.parametrize("kind", ["server_error", "too_many", "reset_before_write", "reset_after_write"])
def test_a_change_whose_answer_was_lost_is_done_once(sandbox: MedplumSandbox, server: Medplum, kind: str) -> None:
    """If-Match guards it: it is read again, and written only if the change was not made."""
    reference, _ = stored(server)
    sandbox.faults.add(kind, times=1, method="PUT")
    changed = server.change(reference, lambda now: {**now, "active": True})
    assert changed["active"] is True
    assert len(server.get(f"fhir/R4/{reference}/_history")["entry"]) == 2


def test_an_update_of_a_stale_version_writes_nothing(sandbox: MedplumSandbox, server: Medplum) -> None:
    """PUT always carries If-Match; a conflict is reported at once."""
    reference, made = stored(server)
    server.update({**made, "active": True})
    error = lost(lambda: server.update({**made, "active": False}))
    assert isinstance(error, TransientError)
    assert (error.status, error.code) == (412, "edit-conflict")
    assert server.read(reference)["active"] is True
    assert asked(sandbox, "PUT") == [200, 412]


def test_an_update_is_repeated_where_it_was_not_done(sandbox: MedplumSandbox, server: Medplum) -> None:
    """If it was done but the answer was lost, If-Match prevents a second one."""
    reference, made = stored(server)
    sandbox.faults.add("server_error", times=2, method="PUT")
    updated = server.update({**made, "active": True})
    assert updated["active"] is True
    sandbox.faults.add("reset_after_write", times=1, method="PUT")
    assert lost(lambda: server.update({**updated, "active": False})).status == 412
    assert len(server.get(f"fhir/R4/{reference}/_history")["entry"]) == 3


def test_a_deleted_resource_can_be_restored(server: Medplum) -> None:
    """A second deletion changes nothing; a PUT of the earlier version restores it."""
    reference, made = stored(server)
    server.delete(reference)
    server.delete(reference)
    with pytest.raises(InputError):
        server.read(reference)
    server.restore(made)
    assert server.read(reference)["identifier"] == made["identifier"]


def test_a_delete_is_not_repeated(sandbox: MedplumSandbox, server: Medplum) -> None:
    """Its failure is reported."""
    reference, _ = stored(server)
    sandbox.faults.add("server_error", method="DELETE")
    assert lost(lambda: server.delete(reference)).method == "DELETE"
    assert asked(sandbox, "DELETE") == [500]


def test_each_entry_of_a_batch_has_its_own_status(server: Medplum) -> None:
    """One that fails does not stop the others, and the order is that of the entries."""
    reference, _ = stored(server)
    entries: Sequence[Json] = [
        {"request": {"method": "GET", "url": reference}},
        {"request": {"method": "GET", "url": UNKNOWN}},
        {"request": {"method": "POST", "url": "Patient"}, "resource": patient()},
    ]
    assert [entry["response"]["status"] for entry in server.batch(entries)] == ["200", "404", "201"]


# Refusals

SECRET = "Zzyzx"


@pytest.mark.parametrize(
    "call",
    [
        lambda server: server.read(UNKNOWN),
        lambda server: server.change(UNKNOWN, lambda now: now),
        lambda server: server.delete(UNKNOWN),
        lambda server: server.update({**patient(), "id": UNKNOWN.partition("/")[2], "meta": {"versionId": "1"}}),
    ],
)
def test_a_missing_resource_is_an_input_error(server: Medplum, call: Callable[[Medplum], object]) -> None:
    """The error names the type, never the id."""
    with pytest.raises(InputError) as caught:
        call(server)
    assert caught.value.code == "not-found"
    assert "Patient/{id}" in str(caught.value)
    assert "ffff" not in str(caught.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda server: server.create(patient(name=SECRET)),
        lambda server: server.create_once(patient(name=SECRET), f"identifier={SECRET}"),
        lambda server: server.search("Patient", [("nonsense", SECRET)]),
        lambda server: list(server.search_all("Patient", [(SECRET, "x")])),
        lambda server: server.post("fhir/R4/Patient", patient(name=SECRET)),
    ],
)
def test_a_refusal_contains_nothing_about_a_person(server: Medplum, call: Callable[[Medplum], object]) -> None:
    """400 is for the operator: status, method and type, and not what Medplum says about the content."""
    with pytest.raises(PermanentError) as caught:
        call(server)
    assert (caught.value.status, caught.value.code) == (400, "refused-by-medplum")
    assert SECRET not in f"{caught.value!r} {caught.value.__dict__}"


def test_a_refused_token_is_for_the_operator(sandbox: MedplumSandbox) -> None:
    """401: the login of this bot, and not a word of the token."""
    stranger = medplum.connect(Event(sandbox.base_url, f"{SECRET}-token", None, secrets=HASTE))
    with pytest.raises(AuthError) as caught:
        stranger.read(UNKNOWN)
    assert caught.value.code == "medplum-login-refused"
    assert SECRET not in str(caught.value)


def test_missing_rights_are_for_the_operator() -> None:
    """403: distinguished from a refused login."""
    with (
        answering(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\n{}") as near,
        pytest.raises(AuthError) as caught,
    ):
        near.server.create(patient())
    assert caught.value.code == "medplum-rights-missing"


def test_a_refused_client_is_for_the_operator(sandbox: MedplumSandbox) -> None:
    """A wrong secret is a refused login, and the error does not contain the secret."""
    stranger = medplum.connect_client(sandbox.base_url, sandbox.client_id, f"{SECRET}-secret", patience=AT_ONCE)
    with pytest.raises(AuthError) as caught:
        stranger.read(UNKNOWN)
    assert caught.value.code == "medplum-login-refused"
    assert SECRET not in f"{caught.value} {stranger!r}"


@pytest.mark.parametrize("kind", ["too_many", "server_error"])
def test_a_busy_token_endpoint_requires_no_action_yet(sandbox: MedplumSandbox, kind: str) -> None:
    """It does not count as a refusal of the client: the host tries again later."""
    sandbox.faults.add(kind, path="/oauth2/token")
    client = medplum.connect_client(sandbox.base_url, sandbox.client_id, sandbox.client_secret, patience=AT_ONCE)
    assert isinstance(lost(lambda: client.read(UNKNOWN)), TransientError)


# Connecting


def test_a_bot_connects_with_what_its_event_says(sandbox: MedplumSandbox) -> None:
    """Its retry policy comes from the settings, and the representation shows no token."""
    server = connected(sandbox)
    assert server.patience == AT_ONCE
    assert sandbox.token_for() not in repr(server)
    assert stored(server)[1]["resourceType"] == "Patient"


@pytest.mark.parametrize(("base_url", "token"), [("", "t"), ("https://medplum.example/", "")])
def test_an_event_without_address_or_token_is_refused(base_url: str, token: str) -> None:
    """The error says to call the bot through Medplum."""
    with pytest.raises(InputError) as caught:
        medplum.connect(Event(base_url, token, None))
    assert caught.value.code == "no-login"


@pytest.mark.parametrize("url", ["http://medplum.example/", "ftp://127.0.0.1/", "medplum.example"])
def test_a_token_never_travels_in_the_clear(url: str) -> None:
    """Plain HTTP is for this machine and private networks, for bots and clients alike."""
    with pytest.raises(ConfigError):
        medplum.connect(Event(url, "t", None))
    with pytest.raises(ConfigError):
        medplum.connect_client(url, "id", "secret")


def test_the_environment_names_a_client(sandbox: MedplumSandbox) -> None:
    """All that is missing is named at once."""
    environ = {
        "MEDPLUM_BASE_URL": sandbox.base_url,
        "MEDPLUM_CLIENT_ID": sandbox.client_id,
        "MEDPLUM_CLIENT_SECRET": sandbox.client_secret,
    }
    client = medplum.connect_environment({**environ, **HASTE})
    assert client.patience == AT_ONCE
    assert client.create(patient())["resourceType"] == "Patient"
    with pytest.raises(ConfigError) as caught:
        medplum.connect_environment({"MEDPLUM_CLIENT_ID": "x", "MEDPLUM_CLIENT_SECRET": ""})
    assert caught.value.missing == ("MEDPLUM_BASE_URL", "MEDPLUM_CLIENT_SECRET")


# A server that answers what a test says, one connection after the other


class Near:
    """One answer for each connection, which is then closed without a word, as a server does with idle ones."""

    def __init__(self, answers: Sequence[bytes]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._answers = answers
        self.closed = [threading.Event() for _ in answers]
        self.heard = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.server = medplum.connect(Event(url, "t", None, secrets=HASTE))

    def _run(self) -> None:
        for answer, closed in zip(self._answers, self.closed, strict=True):
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                self.heard += 1
                connection.sendall(answer)
            closed.set()

    def close(self) -> None:
        """Frees the port."""
        self._listener.close()


@contextmanager
def answering(*answers: bytes) -> Iterator[Near]:
    near = Near(answers)
    try:
        yield near
    finally:
        near.close()


PATIENT = b'{"resourceType":"Patient","id":"1"}'
GOOD = b"HTTP/1.1 200 OK\r\nContent-Type: application/fhir+json\r\nContent-Length: %d\r\n\r\n%s" % (
    len(PATIENT),
    PATIENT,
)
PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>"
NOT_TEXT = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n\xff\xfe\x00{"


def test_a_connection_that_the_server_closed_is_not_used_again() -> None:
    """Even a create succeeds: the client detects the closed connection before it sends anything."""
    with answering(GOOD, GOOD) as near:
        assert near.server.read("Patient/1")["id"] == "1"
        assert near.closed[0].wait(240)
        assert near.server.create(patient())["id"] == "1"
        assert near.heard == 2


def test_a_connection_that_breaks_while_it_is_used_is_another_matter() -> None:
    """A read is repeated; a create may have been done."""
    with answering(b"", GOOD, b"") as near:
        assert near.server.read("Patient/1")["id"] == "1"
        assert near.closed[1].wait(240)
        error = lost(lambda: near.server.create(patient()))
    assert isinstance(error, TransientError)
    assert (error.maybe_done, near.heard) == (True, 3)


def test_a_server_that_does_not_listen_got_nothing() -> None:
    """Then even a create was surely not done."""
    near = Near([])
    near.close()
    error = lost(lambda: near.server.create(patient()))
    assert isinstance(error, TransientError)
    assert not error.maybe_done


@pytest.mark.parametrize("page", [PAGE, NOT_TEXT])
def test_a_gateways_page_does_not_pass_for_data(page: bytes) -> None:
    """It is transient, and after a write it is unknown whether it was done."""
    with answering(page, page, page, page) as near:
        create, read = lost(lambda: near.server.create(patient())), lost(lambda: near.server.read("Patient/1"))
    assert isinstance(create, TransientError)
    assert isinstance(read, TransientError)
    assert (create.code, create.maybe_done, read.maybe_done) == ("unreadable-answer", True, False)


def test_a_resource_that_is_nested_too_deep_is_no_answer() -> None:
    """Its references cannot be made local: the same error as for any other answer that cannot be read."""
    body = b'{"resourceType":"Patient","id":"1","extension":' + b'{"a":' * 600 + b"1" + b"}" * 601
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/fhir+json\r\nContent-Length: %d\r\n\r\n" % len(body)
    with answering(*[head + body] * 3) as near:
        error = lost(lambda: near.server.with_local_references().read("Patient/1"))
    assert (error.code, error.path) == ("unreadable-answer", "Patient/{id}")


def test_an_answer_that_is_no_object_is_reported_with_its_status() -> None:
    """A success that cannot be read: the outcome's diagnostics say so."""
    with answering(b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n[]") as near:
        error = lost(lambda: near.server.create(patient()))
    assert isinstance(error, TransientError)
    assert (error.code, error.status, error.maybe_done) == ("unreadable-answer", 201, True)


@pytest.mark.parametrize("header", ["Retry-After: 7", 'RateLimit: "requests";r=0;t=7', "RateLimit: x;r=0;t=soon"])
def test_the_requested_wait_is_read(header: str) -> None:
    """RateLimit if nothing is left, else Retry-After; a value that is no number means no wait."""
    busy = f"HTTP/1.1 429 Too Many\r\n{header}\r\nContent-Length: 0\r\n\r\n".encode()
    with answering(busy) as near:
        error = lost(lambda: near.server.create(patient()))
    assert isinstance(error, TransientError)
    assert error.retry_after == (None if "soon" in header else 7.0)


def test_a_patients_document_is_returned_unchanged() -> None:
    """XML, in UTF-8, and a refusal names the operation without the patient."""
    document = "<ClinicalDocument>é</ClinicalDocument>".encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/cda+xml; charset=utf-8\r\nContent-Length: %d\r\n\r\n"
    with answering(head % len(document) + document, b"HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n") as near:
        assert near.server.ccda("patient-1") == document
        error = lost(lambda: near.server.ccda("patient-1"))
    assert (error.path, "patient-1" in str(error)) == ("Patient/{id}/$ccda-export", False)


def test_a_redirect_is_not_followed() -> None:
    """A token goes to the host that it was issued for."""
    with answering(b"HTTP/1.1 302 Found\r\nLocation: https://elsewhere.example/\r\nContent-Length: 0\r\n\r\n") as near:
        with pytest.raises(BotError) as caught:
            near.server.read("Patient/1")
        assert isinstance(caught.value, PermanentError)
        assert (caught.value.status, near.heard) == (302, 1)


@pytest.mark.parametrize("token", ["ä", "\ud800", "a b", "a\nb"])
def test_text_that_no_header_can_contain_is_not_a_token(token: str) -> None:
    """A function on AWS Lambda has no other check before its own."""
    with pytest.raises(AuthError) as refused:
        medplum.connect(Event(base_url="https://medplum.example/", access_token=token, input=None))
    assert refused.value.code == "medplum-login-refused"


class _BusyProxy(BaseHTTPRequestHandler):
    """Is asked for a whole URL, and answers that the server behind it is busy."""

    asked: list[str]

    def do_GET(self) -> None:
        """A refusal of the moment."""
        self.asked.append(self.path)
        self.send_response(503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing on standard error."""


def test_behind_a_proxy_the_same_policy_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that took the proxy of the environment by itself went round our transport, and its limits."""
    asked: list[str] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_BusyProxy,), {"asked": asked})) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        for name in ("NO_PROXY", "no_proxy", "HTTP_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.server_address[1]}")
        server = medplum.connect(Event("http://10.255.255.1/", "t", None, secrets=HASTE))
        error = lost(lambda: server.read("Patient/1"))
        proxy.shutdown()
    assert (error.status, error.code) == (503, "medplum-unavailable")
    assert asked == ["http://10.255.255.1/fhir/R4/Patient/1"] * 3
