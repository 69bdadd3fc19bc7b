"""Faults below the host: a database that disappears, a full disk, a read-only file, compressed bodies."""

from __future__ import annotations

import gzip
import json
import os
import pwd
import resource
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from dbos import DBOS

from bot_layer.errors import BotError, ConfigError, PermanentError
from bot_layer.fhir.json import Json
from bot_layer.host import storage
from bot_layer.host.durable import Inbox, InboxSettings
from bot_layer.host.rules.relay_signature import sign
from bot_layer.host.runs import open_runs
from bot_layer.http.transport import Transport
from bot_layer.medplum.client import connect_client
from tests.host.process import until
from tests.host.test_inbox import AT, BUSY, NOW, Script, Trusting, changed, ended, running
from tests.host.world import TokenServer, bot_resource, envelope, hosted
from tests.postgres import Server

KEY = "k" * 32


def test_postgresql_stops_during_a_run_and_answers_again(own_postgres: Server) -> None:
    """A run in progress completes once; new events run at once; afterwards everything works as before."""
    gate = threading.Event()
    script = Script(gate)
    settings = InboxSettings(own_postgres.url, key="k", first_pause=0.01, polling=0.02)
    inbox = Inbox(script.bots, settings, environ={}, guard=Trusting({}))
    inbox.launch()
    try:
        inbox.take(script.handler, changed("before", "1"), AT, now=NOW)
        script.wait_for(1)
        own_postgres.stop()
        until(lambda: not inbox.ready)
        assert inbox.take(script.handler, changed("meanwhile", "1"), AT, now=NOW) is None, "it runs at once"
        gate.set()
        own_postgres.start()
        until(lambda: inbox.ready)
        assert inbox.take(script.handler, changed("after", "1"), AT, now=NOW) is not None
        with open_runs(own_postgres.url, "k") as runs:
            found = ended(runs, 2)
    finally:
        gate.set()
        inbox.close(grace=5)
    assert {(run.resource, run.state) for run in found} == {("Patient/before", "done"), ("Patient/after", "done")}
    assert script.seen == ["before/1", "after/1"]


@contextmanager
def no_room() -> Iterator[None]:
    """No file of this process can grow past its first page: what a full disk does, without filling one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_on_a_full_disk_events_run_at_once_until_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host says that it takes none, and takes them again by itself."""
    monkeypatch.setattr(storage, "STORE_SECONDS", 1.0)
    script = Script()
    with running(tmp_path, script) as (inbox, runs):
        with no_room():
            assert inbox.take(script.handler, changed("full", "1"), AT, now=NOW) is None
            assert not inbox.ready
            assert inbox.take(script.handler, changed("full", "2"), AT, now=NOW) is None
        until(lambda: inbox.ready)
        monkeypatch.undo()
        assert inbox.take(script.handler, changed("room", "1"), AT, now=NOW) is not None
        until(lambda: "room/1" in script.seen)
        ended(runs, 1)
    assert script.seen == ["room/1"]


def test_a_file_that_may_only_be_read_is_one_sentence() -> None:
    """The host finds this at start, whoever owns the file."""
    with tempfile.TemporaryDirectory() as folder:
        path, is_root = Path(folder, "inbox.sqlite"), os.geteuid() == 0
        path.touch(0o444)
        Path(folder).chmod(0o555)
        if is_root:
            os.seteuid(pwd.getpwnam("nobody").pw_uid)
        try:
            with pytest.raises(ConfigError, match="this user may write there"):
                storage.require_usable(f"sqlite:///{path}")
        finally:
            if is_root:
                os.seteuid(0)
            Path(folder).chmod(0o755)


_refusing = threading.Event()
_refused: list[str] = []


@sa.event.listens_for(sa.pool.Pool, "checkout")
def _refuse(connection: Any, _record: Any, _proxy: Any) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute(f"PRAGMA query_only = {'ON' if _refusing.is_set() else 'OFF'}")


@sa.event.listens_for(sa.Engine, "handle_error")
def _note(_context: sa.ExceptionContext) -> None:
    _refused.append(threading.current_thread().name)


def a_run_was_refused() -> bool:
    """True once the database has refused what a thread of DBOS wrote that executes a run."""
    return any(name.startswith("dbos-executor") for name in _refused)


@contextmanager
def read_only() -> Iterator[None]:
    """SQLite refuses each write of this process, also on connections that were opened before."""
    _refusing.set()
    try:
        yield
    finally:
        _refusing.clear()


@contextmanager
def standby(server: Server) -> Iterator[None]:
    """A PostgreSQL that answers and takes no writes."""
    server.set_read_only(True)
    try:
        yield
    finally:
        server.set_read_only(False)


def event_of(medplum: TokenServer, resource_id: str) -> Json:
    """A Subscription's event about a Patient that the server has."""
    patient = {"resourceType": "Patient", "id": resource_id, "meta": {"versionId": "1"}}
    medplum.add(patient)
    return envelope(medplum, "token-script", patient, headers={"X-Medplum-Subscription": "s"})


@pytest.mark.parametrize("fault", ["sqlite-read-only", "sqlite-full", "postgresql-standby"])
def test_a_database_that_takes_no_writes_in_the_middle_of_a_run(
    fault: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Events run at once, each once; ``/readyz`` says what to do; afterwards every run ends, without a restart."""
    url, word, away = f"sqlite:///{tmp_path / 'inbox.sqlite'}", "its disk has room, is not read-only", read_only()
    if fault == "sqlite-full":
        away = no_room()
    elif fault == "postgresql-standby":
        server: Server = request.getfixturevalue("own_postgres")
        url, word, away = server.url, "PostgreSQL is read-only", standby(server)
    gate, medplum = threading.Event(), TokenServer()
    script = Script(gate, None, BUSY)
    medplum.login("token-script", bot_resource("b-1", "test/script"))
    inbox = Inbox(script.bots, InboxSettings(url, key=KEY, first_pause=0.01, polling=0.02), environ={})
    with medplum.server, hosted(medplum, bots=script.bots, inbox=inbox) as (client, _):
        medplum.subscribe("Bot/b-1", criteria="Patient")

        def send(resource_id: str) -> str:
            return str(client.post("/bot-b-1", json=event_of(medplum, resource_id)).json()["logResult"])

        inbox.launch()
        try:
            assert send("before").startswith("queued")
            script.wait_for(1)
            with away:
                if fault != "sqlite-full":  # a full disk still grants the right to write
                    until(lambda: client.get("/readyz").status_code == 503)
                _refused.clear()
                gate.set()
                until(a_run_was_refused)
                assert not send("meanwhile").startswith("queued")
                assert send("meanwhile").startswith("queued"), "delivered again, it is known"
                assert not send("busy").startswith("queued")
                found = client.get("/readyz")
                assert (found.status_code, word in found.json()["problem"]) == (503, True)
            until(lambda: client.get("/readyz").status_code == 200)
            assert send("after").startswith("queued")
            with open_runs(url, KEY) as runs:
                until(lambda: [run.state for run in runs.listed()] == ["done"] * 4)
                codes = {run.resource.removeprefix("Patient/"): run.code for run in runs.listed()}
        finally:
            gate.set()
            inbox.close(grace=5)
    assert codes == {"before": "", "meanwhile": "ran-at-once", "busy": "", "after": ""}
    assert sorted(script.seen) == ["after/1", "before/1", "busy/1", "busy/1", "meanwhile/1"]


def test_a_host_ends_as_usual_while_the_database_takes_no_writes(
    own_postgres: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """It can't sign off, so that others wait for one timeout; nothing else differs."""
    script = Script()
    inbox = Inbox(script.bots, InboxSettings(own_postgres.url, polling=0.02), environ={})
    inbox.launch()
    with standby(own_postgres):
        inbox.close(grace=1)
    assert "did not sign off: InternalError" in caplog.text


def test_a_run_is_not_retried_in_a_database_that_takes_no_writes(tmp_path: Path) -> None:
    """The command says what to do, instead of waiting without a word."""
    script = Script(PermanentError("No.", service="Partner", code="no"))
    with running(tmp_path, script, key=KEY) as (inbox, runs):
        inbox.take(script.handler, changed("a", "1"), AT, now=NOW)
        (run,) = ended(runs, 1)
        with (
            read_only(),
            pytest.raises(ConfigError, match="is not read-only"),
            open_runs(inbox.settings.database_url) as opened,
        ):
            opened.again(run.id, only_failed=True)
        assert [each.state for each in runs.listed()] == ["dead"]


def test_a_host_that_starts_on_a_standby_is_one_sentence(own_postgres: Server) -> None:
    """It says that PostgreSQL is read-only."""
    with standby(own_postgres), pytest.raises(ConfigError, match="PostgreSQL is read-only"):
        storage.require_usable(own_postgres.url)


def test_an_event_that_ran_at_once_is_not_run_by_another_host(
    own_postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be stored in time is not stored later as an event that waits, but as a run that has ended."""
    monkeypatch.setattr(storage, "STORE_SECONDS", 0.1)
    script = Script()
    inbox = Inbox(script.bots, InboxSettings(own_postgres.url, key=KEY, polling=0.02), environ={}, guard=Trusting({}))
    inbox.launch()
    try:
        own_postgres.stop()
        assert inbox.take(script.handler, changed("a", "1"), AT, now=NOW) is None
        inbox.ended_at_once(script.handler, changed("a", "1"), AT, None, now=NOW)
        own_postgres.start()
        until(lambda: inbox.ready)
        with open_runs(own_postgres.url, KEY) as runs:
            (run,) = ended(runs, 1)
            (stored,) = DBOS.list_workflows(workflow_ids=[run.id])
            assert "ranAtOnce" in str(stored.input), "any host can see that the event has been run"
            again = runs.again(run.id, only_failed=False)
            until(lambda: runs.one(again).state == "dead")
    finally:
        inbox.close(grace=5)
    assert (run.state, run.code, script.seen) == ("done", "ran-at-once", [])


def test_a_packed_request_is_not_unpacked() -> None:
    """The host never decompresses a body: 300 MB compressed to 300 KB stay 300 KB, and are no event."""
    bomb = gzip.compress(bytes(300 * 1024 * 1024), compresslevel=1)
    medplum = TokenServer()
    medplum.login("token-echo", bot_resource("b-3", "test/echo"))
    with medplum.server, hosted(medplum, relay_key=KEY, largest_body=len(bomb) * 2, now=lambda: 1000.0) as (client, _):
        packed = {"Content-Encoding": "gzip"}
        signed = packed | {"X-Bot-Signature": sign(KEY, "echo", bomb, at=1000, nonce="nonce-0001")}
        assert client.post("/bot-b-3", content=bomb, headers=packed).status_code == 400
        assert client.post("/relay/echo", content=bomb, headers=signed).status_code == 400
        event = gzip.compress(json.dumps(envelope(medplum, "token-echo", {})).encode())
        assert client.post("/bot-b-3", content=event, headers=packed).status_code == 400


@pytest.fixture(scope="module")
def bomber() -> Iterator[str]:
    """A server whose every answer is 300 MB, packed."""
    bomb = gzip.compress(b" " * (300 * 1024 * 1024), compresslevel=1)

    class Bomb(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.path.endswith("token"):
                body, encoding = b'{"access_token":"t","expires_in":3600,"token_type":"Bearer"}', "identity"
            else:
                body, encoding = bomb, "gzip"
            self.send_response(200)
            self.send_header("Content-Type", "application/fhir+json")
            self.send_header("Content-Encoding", encoding)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer

        def log_message(self, format: str, *args: Any) -> None:  # the standard library's name
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Bomb)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("service", ["partner", "Medplum"])
def test_a_packed_answer_is_bounded_by_what_it_unpacks_to(service: str, bomber: str) -> None:
    """A partner's, and Medplum's."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BotError) as found:
        if service == "partner":
            Transport("Partner").send("GET", f"{bomber}/fhir/Patient/1", path="Patient/{id}")
        else:
            connect_client(bomber, "client", "secret").read("Patient/1")
    assert found.value.code == "answer-too-large"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150 * 1024, "in KB: it was not unpacked whole"
