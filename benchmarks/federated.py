"""The federated responder under load: 200 queries a second for 30 seconds, their latency, and how many failed.

The responder runs in a process of its own, as ``medplum-bots serve`` starts it; Medplum's look-alike and the callers
share this one. Answers are kept for two seconds (FEDERATED_CACHE_SECONDS), as a busy clinic would set it: Medplum's
default quota would allow some 35 queries a second otherwise.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import secrets
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from bot_layer.demo.world import free_port
from bot_layer.federation.rules.token import hash_secret
from bot_layer.fhir.json import Json
from bot_layer.medplum.client import Medplum, connect_client
from medplum_sandbox.health_gorilla.network import FederatedCaller
from medplum_sandbox.medplum.sandbox import MedplumSandbox

RATE = 200
SECONDS = 30
PATIENTS = 50
DOCUMENTS = 3
CALLERS = 24
CLIENT_ID = "bench"


@dataclass
class Tally:
    """What the callers saw. Latency counts from the moment at which a query was due, so that a queue is not hidden."""

    latencies: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, latency: float, outcome: str) -> None:
        """Counts one query."""
        with self.lock:
            self.latencies.append(latency)
            self.outcomes[outcome] += 1


def run(console: Console) -> None:
    """Print the figures of one run."""
    secret = secrets.token_urlsafe(24)
    with MedplumSandbox(quota=100_000_000) as medplum, _responder(medplum, secret) as base_url:
        patients = _filled(connect_client(medplum.base_url, medplum.client_id, medplum.client_secret))
        fhir_url = f"{base_url}/fhir/R4"
        caller = FederatedCaller(f"{base_url}/oauth2/token", fhir_url, CLIENT_ID, secret, aud=fhir_url)
        assert all(len(caller.query(patient)) == DOCUMENTS for patient in patients)
        before = len(medplum.requests)
        tally, took = _load(fhir_url, caller.token(), patients)
        asked = len(medplum.requests) - before
    console.print(_table(tally, took, asked))


def _load(fhir_url: str, token: str, patients: list[str]) -> tuple[Tally, float]:
    """All queries, each at its own time, by as many callers as it takes."""
    tally, numbers, lock = Tally(), count(), threading.Lock()
    began = time.monotonic() + 0.2

    def call() -> None:
        connection = http.client.HTTPConnection(urlsplit(fhir_url).netloc, timeout=30)
        while True:
            with lock:
                number = next(numbers)
            if number >= RATE * SECONDS:
                return
            due = began + number / RATE
            time.sleep(max(0.0, due - time.monotonic()))
            outcome = _ask(connection, fhir_url, token, patients[number % len(patients)])
            tally.add(time.monotonic() - due, outcome)

    callers = [threading.Thread(target=call) for _ in range(CALLERS)]
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    return tally, time.monotonic() - began


def _ask(connection: http.client.HTTPConnection, fhir_url: str, token: str, patient: str) -> str:
    """``right``, or the fault of the answer."""
    path = f"{urlsplit(fhir_url).path}/DocumentReference?patient={patient}"
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as fault:
        connection.close()
        return type(fault).__name__
    if answer.status != 200:
        return f"status {answer.status}"
    return "right" if f'"total":{DOCUMENTS},'.encode() in body else "wrong total"


def _filled(server: Medplum) -> list[str]:
    """Registered patients with documents."""
    data = base64.b64encode(b"<ClinicalDocument/>" * 500).decode()
    content = {"contentType": "application/xml", "data": data}
    found = []
    for number in range(PATIENTS):
        registered = {"system": "https://www.healthgorilla.com", "value": f"{number:024x}"}
        patient = server.create({"resourceType": "Patient", "identifier": [registered]})
        found.append(patient["id"])
        for _ in range(DOCUMENTS):
            binary = server.create({"resourceType": "Binary", **content})
            server.create(_document(patient, binary))
    return found


def _document(patient: Json, binary: Json) -> Json:
    return {
        "resourceType": "DocumentReference",
        "status": "current",
        "subject": {"reference": f"Patient/{patient['id']}"},
        "content": [{"attachment": {"contentType": "application/xml", "url": f"Binary/{binary['id']}"}}],
    }


@contextmanager
def _responder(medplum: MedplumSandbox, secret: str) -> Iterator[str]:
    """``medplum-bots serve`` in a separate process; its address."""
    port = free_port()
    base_url = f"http://127.0.0.1:{port}/federated"
    client = {"id": CLIENT_ID, "secretHash": hash_secret(secret, secrets.token_bytes(16))}
    environ: Mapping[str, str] = {
        **os.environ,
        "MEDPLUM_BASE_URL": medplum.base_url,
        "MEDPLUM_CLIENT_ID": medplum.client_id,
        "MEDPLUM_CLIENT_SECRET": medplum.client_secret,
        "FEDERATED_BASE_URL": base_url,
        "FEDERATED_CLIENTS": json.dumps([client]),
        "FEDERATED_SIGNING_KEY": secrets.token_urlsafe(48),
        "FEDERATED_CACHE_SECONDS": "2",
        "FEDERATED_AUDIT_SECONDS": "10",
    }
    command = [sys.executable, "-m", "bot_layer.cli", "serve", "--port", str(port), "--inbox", "off"]
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, process)
        yield base_url
    finally:
        process.terminate()
        process.wait(timeout=60)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/healthz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.1)
        finally:
            connection.close()
    raise RuntimeError("The responder did not start within thirty seconds.")


def _table(tally: Tally, took: float, asked: int) -> Table:
    cuts = statistics.quantiles(tally.latencies, n=100)
    queries = sum(tally.outcomes.values())
    failed = {outcome: number for outcome, number in tally.outcomes.items() if outcome != "right"}
    table = Table("figure", "value", title=f"{RATE} queries a second for {SECONDS} s")
    for figure, value in (
        ("queries answered", f"{queries} in {took:.1f} s ({queries / took:.0f} a second)"),
        ("not answered as they should be", f"{sum(failed.values())} {failed or ''}"),
        (
            "p50 / p95 / p99, from when each was due",
            " / ".join(f"{cuts[cut - 1] * 1000:.1f}" for cut in (50, 95, 99)) + " ms",
        ),
        ("requests to Medplum for each query", f"{asked / queries:.2f}"),
    ):
        table.add_row(figure, value)
    return table
