"""The cost of a call without the network: the handler's own work, a process's first answer, requests per sync."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bot_layer.bot.event import read, target
from bot_layer.demo.world import World
from bot_layer.fhir.json import Json
from bot_layer.health_gorilla.rules import answers, enrollment
from bot_layer.health_gorilla.rules import settings as hg
from bot_layer.health_gorilla.rules.account_request import AccountRequest
from bot_layer.health_gorilla.rules.clinician import Clinician
from bot_layer.health_gorilla.rules.enrollment import Enrollment
from bots.sync_practitioner import handler
from medplum_sandbox.health_gorilla import npi

_REPEATS = 2_000
_SETTINGS = {
    "HEALTH_GORILLA_CLIENT_ID": "client",
    "HEALTH_GORILLA_CLIENT_SECRET": "invented-" * 5,
    "HEALTH_GORILLA_TENANT_ID": "t-000000000000000000000001",
}
_PRACTITIONER: Json = {
    "resourceType": "Practitioner",
    "id": "3f6a9a52-7d1c-4c57-9d1e-1c1f5d1f9c11",
    "identifier": [{"system": "http://hl7.org/fhir/sid/us-npi", "value": npi(1)}],
    "name": [{"family": "Gorilla", "given": ["Joe"]}],
}
_INPUT: Json = {
    "resourceType": "Parameters",
    "parameter": [{"name": "practitioner", "valueReference": {"reference": f"Practitioner/{_PRACTITIONER['id']}"}}],
}
_ROLE: Json = {
    "resourceType": "PractitionerRole",
    "id": "r",
    "practitioner": {"reference": "#pr"},
    "contained": [{**_PRACTITIONER, "id": "pr"}],
}


def run(console: Console) -> None:
    """Print the figures."""
    envelope = {
        "baseUrl": "https://medplum.example/",
        "accessToken": "t",
        "input": _INPUT,
        "secrets": {name: {"name": name, "valueString": value} for name, value in _SETTINGS.items()},
    }
    body = json.dumps(envelope).encode()
    table = Table("what", "figure", title="sync-practitioner without the network")
    parse = _microseconds(lambda: json.loads(body))
    whole = _microseconds(lambda: _one_call(body))
    table.add_row("json.loads of the envelope", f"{parse:.0f} µs")
    table.add_row("the handler's own work: parse, check, decide, answer", f"{whole:.0f} µs ({whole / parse:.0f} times)")
    table.add_row("cold start to the first answer, against python -c pass", _cold_start())
    for name, (medplum, gorilla) in _requests().items():
        table.add_row(f"requests of {name}", f"{medplum} to Medplum, {gorilla} to Health Gorilla")
    console.print(table)


def _one_call(body: bytes) -> Json:
    event = read(json.loads(body), settings=handler.bot.settings)
    handler.check_input(event.input)
    target(event, "Practitioner", "practitioner")
    settings = hg.read(event.secrets)
    found = Enrollment(_ROLE, _ROLE["contained"][0])
    requested = AccountRequest()
    clinician = Clinician.read(_PRACTITIONER, datetime.now(UTC))
    decision = enrollment.plan_update(clinician, found, requested)
    enrollment.npi_of(clinician, settings)
    return answers.of_account(decision.action, "id", "login", requested)


def _microseconds(call: Callable[[], object]) -> float:
    """The median of many calls."""
    call()
    times: list[float] = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


def _cold_start() -> str:
    """A new process that answers one event (a refusal, so that no network is asked)."""
    with tempfile.TemporaryDirectory() as folder:
        event = Path(folder) / "event.json"
        event.write_text(json.dumps({"baseUrl": "http://127.0.0.1:9/", "accessToken": "t", "input": {}}))
        command = [sys.executable, "-m", "bot_layer.cli", "invoke", "sync-practitioner", "--event", str(event)]
        ours, bare = _seconds(command), _seconds([sys.executable, "-c", "pass"])
    return f"{ours:.2f} s ({ours / bare:.0f} times)"


def _seconds(command: list[str]) -> float:
    times: list[float] = []
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run(command, capture_output=True, check=False, env=dict(os.environ))
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _requests() -> dict[str, tuple[int, int]]:
    """Counted in the embedded world: an enrollment and an unchanged re-sync, with one account number."""
    counted: dict[str, tuple[int, int]] = {}
    with World() as world:
        world.load_sample_people()
        client = world.client()
        (joe,) = client.search("Practitioner", [("identifier", "https://example.org/sample-people|joe")])
        secrets = {name: {"name": name, "valueString": value} for name, value in world.settings().items() if value}
        event = {
            "baseUrl": world.medplum.base_url,
            "accessToken": world.medplum.token_for(),
            "input": {"reference": f"Practitioner/{joe['id']}"},
            "secrets": secrets,
        }
        for name in ("an enrollment, token included", "an unchanged re-sync"):
            before = len(world.medplum.requests), len(world.gorilla.requests)
            handler(event)
            counted[name] = (len(world.medplum.requests) - before[0], len(world.gorilla.requests) - before[1])
    return counted
