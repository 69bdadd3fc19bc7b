"""What the log contains, and what it never contains: no personal data at any level, and only JSON lines."""

from __future__ import annotations

import json
import logging
import secrets
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bot_layer.demo.world import World
from bot_layer.errors import BotError
from bot_layer.federation.rules.token import hash_secret
from bot_layer.fhir.json import Json
from bot_layer.host import logs
from bot_layer.host.rules import relay_signature
from tests import loopback
from tests.host.enrolments import deployed, npi
from tests.host.process import HostProcess, until

UNSEEN = (
    *("Unseenfamily", "Unseengiven", "1987-06-05", "unseen-mail", "unseen-record", "unseen-client-secret"),
    *("Bearer ", "eyJ", "client_secret="),
)
UNSEEN_PERSON: Json = {
    "name": [{"family": "Unseenfamily", "given": ["Unseengiven"]}],
    "birthDate": "1987-06-05",
    "telecom": [{"system": "email", "value": "unseen-mail@example.com"}],
}
UNSEEN_PATIENT: Json = UNSEEN_PERSON | {
    "resourceType": "Patient",
    "id": "unseen-record-1",
    "identifier": [{"system": "https://clinic.example", "value": "unseen-record-2"}],
}
RELAY_KEY = "a-key-of-32-characters-of-a-relay"
LEVELS = ["debug", "info", "warning", "error"]


def _lines(host: HostProcess) -> list[Json]:
    return [json.loads(line) for line in host.lines if line]


@pytest.mark.parametrize("level", LEVELS)
def test_no_failing_flow_writes_anything_of_a_person(tmp_path: Path, level: str) -> None:
    """At every log level, all output is JSON without a name, birth date, record number, token or query.

    The flows are Subscriptions, operations, timers, a bulk sync, relays, federated queries and a locked database.
    Partners drop connections and answer with errors or pages, callers send forged calls, and Medplum fails.
    """
    with deployed() as world:
        with HostProcess(
            world.medplum.base_url, tmp_path / "inbox.sqlite", "--log-level", level, **_settings(world)
        ) as host:
            world.medplum.bot_host = host.address
            world.practice_fusion.source.add(UNSEEN_PATIENT | {"shoeSize": 1}, at=datetime.now(UTC))
            for number, kind in enumerate(["reset_before_write", "server_error", "html", "empty_body"]):
                _break_all(world, kind)
                world.client().create(_clinician(number))
                world.client().create(UNSEEN_PATIENT)
                world.medplum.run_cron(datetime(2026, 1, 1, 0, number, tzinfo=UTC))
                _call_from_outside(host, number)
                with suppress(BotError):
                    world.client().post("fhir/R4/$pf-bulk-sync", {"resourceType": "Parameters"})
                world.medplum.settle(timeout=240)
                until(host.idle)
                for server in (world.medplum, world.gorilla, world.practice_fusion):
                    server.faults.clear()
            if level == "debug":  # a locked database is waited for, and this level says everything
                _lock_the_database(tmp_path / "inbox.sqlite", lambda: world.client().create(_clinician(90)), world)
                until(host.idle)
        lines, text = _lines(host), "\n".join(host.lines)
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    assert [each for each in UNSEEN if each in text] == []
    assert [line for line in lines if "?" in line["message"]] == []
    said = {(line["logger"].rpartition(".")[2], line["level"]) for line in lines}
    assert level == "error" or {("host", "warning"), ("invoke", "warning")} <= said, "the flows have failed"
    assert level != "debug" or any("not stored and runs at once" in line["message"] for line in lines)


def _settings(world: World) -> dict[str, str]:
    secret = hash_secret("unseen-client-secret", secrets.token_bytes(16))
    return {
        **world.environment(),
        "BOT_RETRIES": "1",
        "BOT_BACKOFF_SECONDS": "0",
        "BOT_HOST_ATTEMPTS": "2",
        "PF_LEASE_SECONDS": "1",  # a timer that finds the sync running waits until its lease is over
        "BOT_RELAY_KEY": RELAY_KEY,
        "FEDERATED_BASE_URL": "https://bots.clinic.example/federated",
        "FEDERATED_CLIENTS": json.dumps([{"id": "network", "secretHash": secret}]),
        "FEDERATED_SIGNING_KEY": secrets.token_urlsafe(32),
    }


def _clinician(number: int) -> Json:
    return UNSEEN_PERSON | {
        "resourceType": "Practitioner",
        "identifier": [{"system": "http://hl7.org/fhir/sid/us-npi", "value": npi(number)}],
    }


def _call_from_outside(host: HostProcess, number: int) -> None:
    """Forged calls, relays with a good and a bad signature, logins and queries of the federated network."""
    origin, now = f"http://{host.address}", int(time.time())
    for body in (b"Unseenfamily", b'{"baseUrl": "http://127.0.0.1/Unseenfamily?family=Unseengiven"}'):
        loopback.post(f"{origin}/bot-Unseenfamily", content=body)
        for nonce in (f"nonce-{number:04}", f"nonce-{number:04}", "Unseenfamily"):  # the second one is a replay
            header = relay_signature.sign(RELAY_KEY, "sync-practitioner", body, at=now, nonce=nonce)
            loopback.post(f"{origin}/relay/sync-practitioner", content=body, headers={"X-Bot-Signature": header})
            loopback.post(f"{origin}/relay/Unseenfamily", content=body, headers={"X-Bot-Signature": header})
    federated = f"{origin}/federated"
    form = {"grant_type": "client_credentials", "scope": "system/*.read", "client_id": "network"}
    for secret in ("Unseenfamily", "unseen-client-secret"):
        answer = loopback.post(f"{federated}/oauth2/token", data=form | {"client_secret": secret})
        token = answer.json().get("access_token", "Unseenfamily")
        for query in ("Patient?family=Unseenfamily&birthdate=1987-06-05", "DocumentReference?patient=Unseenfamily"):
            loopback.get(f"{federated}/fhir/R4/{query}", headers={"Authorization": f"Bearer {token}"})


def _lock_the_database(path: Path, begin: Callable[[], object], world: World) -> None:
    """An event arrives while another process has locked the inbox: it is not stored and runs at once."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        begin()
        world.medplum.settle(timeout=240)


def _break_all(world: World, kind: str) -> None:
    """Each partner fails twice, and so does Medplum when asked for Subscriptions; a reset hits the next request."""
    for method in ("GET", "POST"):
        world.medplum.faults.add(kind, method=method, path="Subscription/", times=2)
        for partner in (world.gorilla, world.practice_fusion):
            partner.faults.add(kind, method=method, times=2)


def _run(code: str) -> list[Json]:
    """The lines that a process writes to standard error under the host's log."""
    begin = "import logging, sys, threading, warnings\nfrom bot_layer.host import logs\nlogs.configure(level='DEBUG')\n"
    done = subprocess.run(
        [sys.executable, "-c", begin + code], capture_output=True, text=True, check=False, timeout=240
    )
    return [json.loads(line) for line in done.stderr.splitlines()]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise ValueError('Unseen')", "Uncaught ValueError at <string>:4"),
        ("t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join()", "Uncaught ZeroDivisionError"),
        ("print('Unseen', file=sys.stderr)", "printed"),
        ("import traceback\ntry:\n  1/0\nexcept Exception: traceback.print_exc()", "printed"),
        ("warnings.warn('Unseen')", ""),
        ("import dbos\nlogging.getLogger('dbos').error('Failed: Unseen')", ""),
    ],
)
def test_everything_on_standard_error_is_a_json_line_without_its_text(code: str, message: str) -> None:
    """Uncaught exceptions, also in threads, printed text, warnings, and output of DBOS."""
    lines = _run(code)
    assert lines
    assert any(message in line["message"] for line in lines)


def _record(name: str, path: str, text: str, *args: object, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord(name, level, path, 7, text, args, None)


LIBRARY = "/x/lib/python3.11/site-packages/urllib3/connectionpool.py"


@pytest.mark.parametrize(
    ("text", "args", "written"),
    [
        ("Retrying (%r) after: %s", ("1", "/Patient?family=Unseen"), "Retrying (%r) after: %s (connectionpool:7)"),
        ("Failed at http://x/Patient?family=Unseen", (), "Failed at http (connectionpool:7)"),
        ("could not connect: Unseen", (), "could not connect (connectionpool:7)"),
        ("Patient/unseen lost", (), "Patient (connectionpool:7)"),
    ],
)
def test_of_a_librarys_message_only_the_source_text_is_logged(text: str, args: tuple[str, ...], written: str) -> None:
    """A library's values may be a URL with a query, a header, a row."""
    line = json.loads(logs.JsonLines().format(_record("urllib3", LIBRARY, text, *args)))
    assert line["message"] == written


@pytest.mark.parametrize(
    ("name", "path", "library"),
    [
        ("bot_layer.host.host", "/x/site-packages/bot_layer/host/host.py", False),
        ("bots.sync", "/x/bots/sync.py", False),
        ("clinic_bots.greet", "/home/clinic/clinic_bots/greet.py", False),
        ("urllib3.connectionpool", LIBRARY, True),
        ("asyncio", f"{Path(json.__file__).parents[1]}/asyncio/base_events.py", True),
    ],
)
def test_a_library_is_known_by_where_its_code_is(name: str, path: str, library: bool) -> None:
    """The project's own modules and an operator's bots write their messages whole."""
    assert logs.is_library(_record(name, path, "x")) is library
