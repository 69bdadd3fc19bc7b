"""One host is killed six times within 25 seconds while 300 clinicians are created: how many are enrolled, how often?

Medplum sends each event once, so only catch-up finds what changes while the host is dead. The only repair is to start
the killed host again, as a service manager does.

On a real server: ``MEDPLUM_BASE_URL``, ``MEDPLUM_CLIENT_ID`` and ``MEDPLUM_CLIENT_SECRET`` of an empty project with the
feature ``bots`` whose quota allows some thousand writes, on a server whose Fission router is ``127.0.0.1`` and the port
``FISSION_PORT`` (default 8765). Without these variables, on the sandbox. Health Gorilla is always the sandbox.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
from rich.console import Console

from bot_layer.bot.collection import load
from bot_layer.deploy.run import Request, carry_out, survey
from bot_layer.host.runs import open_runs
from bot_layer.medplum.client import Medplum, connect_environment
from medplum_sandbox.health_gorilla import HealthGorillaSandbox
from medplum_sandbox.medplum import MedplumSandbox

CLINICIANS = 300
KILLS = 6
SECONDS = 25.0
PATIENCE = 600.0
LOGIN = ("MEDPLUM_BASE_URL", "MEDPLUM_CLIENT_ID", "MEDPLUM_CLIENT_SECRET")
NPI = "http://hl7.org/fhir/sid/us-npi"
HEALTH_GORILLA = "https://www.healthgorilla.com"


def run(console: Console) -> None:
    """Print how many of the clinicians have exactly one account and one id."""
    port = os.environ.get("FISSION_PORT", "8765")
    with HealthGorillaSandbox() as gorilla, tempfile.TemporaryDirectory() as folder, _medplum(port) as (environ, where):
        server = connect_environment(environ)
        _deploy(server, gorilla.settings() | {"BOT_BACKOFF_SECONDS": "0.05"})
        database = f"sqlite:///{Path(folder) / 'inbox.sqlite'}"
        host = _Host(environ, port, database)
        host.start()
        host.wait_until_ready()
        killer = threading.Thread(target=_kill, args=(host,))
        killer.start()
        began = time.monotonic()
        for number in range(1, CLINICIANS + 1):
            gorilla.directory.add(npi=_npi(number), family="Example", given=["Ann"], suffix=["MD"])
            server.create(
                {
                    "resourceType": "Practitioner",
                    "identifier": [{"system": NPI, "value": _npi(number)}],
                    "name": [{"family": "Example", "given": ["Ann"]}],
                }
            )
            threading.Event().wait(max(0.0, began + SECONDS * number / CLINICIANS - time.monotonic()))
        killer.join()
        created = time.monotonic()
        enrolled = _wait(server)
        waited = time.monotonic() - created
        accounts = Counter(npi for npi in _accounts(gorilla))
        host.stop()
        with open_runs(database) as runs:
            kinds = Counter(f"{run.kind} {run.state}" for run in runs.listed(limit=5000))
        once = sum(accounts[_npi(number)] == 1 and enrolled[_npi(number)] == 1 for number in range(1, CLINICIANS + 1))
        twice = sum(max(accounts[_npi(number)], enrolled[_npi(number)]) > 1 for number in range(1, CLINICIANS + 1))
    console.print(
        f"{where}: {KILLS} kills within {SECONDS:.0f} s; {once} of {CLINICIANS} enrolled once, {twice} twice, "
        f"{waited:.0f} s after the last was created. Runs: {dict(sorted(kinds.items()))}"
    )


class _Host:
    """``medplum-bots serve`` as a service manager runs it."""

    def __init__(self, environ: dict[str, str], port: str, database: str) -> None:
        self._port = port
        command = ["-m", "bot_layer.cli", "serve", "--medplum", environ["MEDPLUM_BASE_URL"], "--port", port]
        self._command = [sys.executable, *command, "--inbox", database, "--log-level", "error"]
        self._environ = {**os.environ, **environ, "BOT_HOST_INBOX_KEY": "a-key-of-this-trial-alone-0123456789"}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, env=self._environ, stderr=subprocess.DEVNULL)

    def wait_until_ready(self) -> None:
        while True:
            with suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{self._port}/readyz").is_success:
                    return
            threading.Event().wait(0.2)

    def kill(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait()


def _kill(host: _Host) -> None:
    for _ in range(KILLS):
        threading.Event().wait(SECONDS / (KILLS + 1))
        host.kill()
        host.start()


def _wait(server: Medplum) -> Counter[str]:
    """How many Health Gorilla ids each NPI has, once all have one or no more arrive."""
    end = time.monotonic() + PATIENCE
    while True:
        found: Counter[str] = Counter()
        for each in server.search_all("Practitioner", [("identifier", f"{NPI}|"), ("_count", "100")]):
            by_system = {one.get("system"): one.get("value") for one in each.get("identifier", [])}
            ids = [one for one in each.get("identifier", []) if one.get("system") == HEALTH_GORILLA]
            found[str(by_system.get(NPI))] += len(ids)
        if all(found[_npi(number)] for number in range(1, CLINICIANS + 1)) or time.monotonic() > end:
            return found
        threading.Event().wait(2.0)


def _deploy(server: Medplum, settings: dict[str, str]) -> None:
    project = server.get("auth/me")["project"]["id"]
    named = [{"name": name, "valueString": value} for name, value in settings.items() if value]
    server.post(f"admin/projects/{project}/secrets", named)
    request = Request(load().only(["sync-practitioner"]))
    done = carry_out(server, request, survey(server, request))
    assert done.error is None, done.error


def _accounts(gorilla: HealthGorillaSandbox) -> Iterator[str]:
    """The NPI of each account, as often as there is one."""
    numbers = [_npi(number) for number in range(1, CLINICIANS + 1)]
    for account in gorilla.state.accounts_in(gorilla.tenant_id):
        text = str(account)
        yield from (npi for npi in numbers if npi in text)


@contextmanager
def _medplum(port: str) -> Iterator[tuple[dict[str, str], str]]:
    if all(os.environ.get(name) for name in LOGIN):
        yield {name: os.environ[name] for name in LOGIN}, os.environ["MEDPLUM_BASE_URL"]
        return
    with MedplumSandbox(quota=10_000_000) as medplum:
        medplum.bot_host = f"127.0.0.1:{port}"
        login = (medplum.base_url, medplum.client_id, medplum.client_secret)
        yield dict(zip(LOGIN, login, strict=True)), "the look-alike"


def _npi(number: int) -> str:
    """An invented NPI with a right check digit (ISO 7812 with the prefix 80840)."""
    stem = f"1{77000000 + number:08d}"
    digits = [int(digit) for digit in f"80840{stem}"]
    doubled = [digit * 2 - 9 * (digit > 4) if place % 2 == 0 else digit for place, digit in enumerate(reversed(digits))]
    return f"{stem}{-sum(doubled) % 10}"
