"""Faults below the host: a database that disappears, a full disk, a read-only file, compressed bodies."""

from __future__ import annotations

import gzip
import json
import os
import pwd
import resource
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from bot_layer.errors import BotError, ConfigError
from bot_layer.host import storage
from bot_layer.host.durable import Inbox, InboxSettings
from bot_layer.host.rules.relay_signature import sign
from bot_layer.host.runs import open_runs
from bot_layer.http.transport import Transport
from bot_layer.medplum.client import connect_client
from tests.host.process import until
from tests.host.test_inbox import AT, NOW, Script, Trusting, changed, ended, running
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
