"""What the log says, and what it never says: nothing of a person at any level, and only JSON lines."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from bot_layer.fhir.json import Json
from bot_layer.host import logs
from medplum_sandbox.faults import Faults
from tests import loopback
from tests.host.enrolments import deployed, npi
from tests.host.process import HostProcess, until

UNSEEN = ("Unseenfamily", "Unseengiven", "1987-06-05", "unseen-mail", "Bearer ", "eyJ", "client_secret")
LEVELS = ["debug", "info", "warning", "error"]


def _lines(host: HostProcess) -> list[Json]:
    return [json.loads(line) for line in host.lines if line]


@pytest.mark.parametrize("level", LEVELS)
def test_no_failing_flow_writes_anything_of_a_person(tmp_path: Path, level: str) -> None:
    """Partners that drop connections, answer with errors or with pages, forged calls, a Medplum that fails: at each
    level all that is written is JSON, and no name, birth date, record number, token or query stands in it.
    """
    with deployed() as world:
        settings = {"MEDPLUM_CLIENT_ID": "", "BOT_RETRIES": "1", "BOT_BACKOFF_SECONDS": "0", "BOT_HOST_ATTEMPTS": "2"}
        with HostProcess(world.medplum.base_url, tmp_path / "inbox.sqlite", "--log-level", level, **settings) as host:
            world.medplum.bot_host = host.address
            for number, (server, fault) in enumerate(_faults(world.medplum.faults, world.gorilla.faults)):
                place = "Subscription/" if server is world.medplum.faults else None
                for method in ("GET", "POST"):
                    server.add(fault, method=method, path=place, times=2)
                world.client().create(
                    {
                        "resourceType": "Practitioner",
                        "identifier": [{"system": "http://hl7.org/fhir/sid/us-npi", "value": npi(number)}],
                        "name": [{"family": "Unseenfamily", "given": ["Unseengiven"]}],
                        "birthDate": "1987-06-05",
                        "telecom": [{"system": "email", "value": "unseen-mail@example.com"}],
                    }
                )
                world.medplum.settle(timeout=60)
                until(host.idle)
                server.clear()
            for body in (b"Unseenfamily", b'{"baseUrl": "http://127.0.0.1/Unseenfamily?family=Unseengiven"}'):
                loopback.post(f"http://{host.address}/bot-Unseenfamily", content=body)
        lines, text = _lines(host), "\n".join(host.lines)
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    assert [each for each in UNSEEN if each in text] == []
    assert [line for line in lines if "?" in line["message"]] == []
    if level != "error":
        assert any("ended with" in line["message"] or "Refused" in line["message"] for line in lines)


def _faults(medplum: Faults, gorilla: Faults) -> list[tuple[Faults, str]]:
    kinds = ["reset_before_write", "server_error", "html", "empty_body"]  # a reset strikes whatever is asked next
    return [(gorilla, kind) for kind in kinds] + [(medplum, kind) for kind in kinds[:3]]


def _run(code: str) -> list[Json]:
    """The lines that a process writes to standard error under the host's log."""
    begin = "import logging, sys, threading, warnings\nfrom bot_layer.host import logs\nlogs.configure(level='DEBUG')\n"
    done = subprocess.run([sys.executable, "-c", begin + code], capture_output=True, text=True, check=False, timeout=60)
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
def test_whatever_reaches_standard_error_is_a_json_line_without_its_text(code: str, message: str) -> None:
    """Uncaught exceptions, also of threads, what is printed, warnings, and what DBOS says."""
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
def test_of_a_librarys_message_only_its_source_is_written(text: str, args: tuple[str, ...], written: str) -> None:
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
