"""The federated responder as an operator starts it: ``medplum-bots serve``, in a separate process."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bot_layer.federation.rules.token import hash_secret
from bot_layer.medplum.client import connect_client
from medplum_sandbox.health_gorilla.network import FederatedCaller
from medplum_sandbox.medplum.sandbox import MedplumSandbox
from tests import loopback, processes
from tests.federation.federated_world import CLIENT_ID

pytestmark = pytest.mark.no_cover  # the host that counts is another process


@contextmanager
def served(environ: dict[str, str]) -> Iterator[str]:
    """Where a host answers; it is ended by SIGTERM and has to end well."""
    command = [
        sys.executable,
        "-m",
        "bot_layer.cli",
        "serve",
        "--port",
        "0",
        "--inbox",
        "off",
        "--log-level",
        "error",
    ]
    with processes.start(command, env={**os.environ, **environ}, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            # The line names the address once the host listens.
            line = next(line for line in process.stderr if "Serving" in line)
            (address,) = re.findall(r"http://[0-9.]+:\d+", line)
            yield address
        finally:
            process.terminate()
            assert process.wait(timeout=240) in (0, -15)


def test_serve_answers_the_network_where_clients_are_configured() -> None:
    """Queries are answered, and their records are written before the host ends."""
    with MedplumSandbox() as medplum:
        login = {
            "MEDPLUM_BASE_URL": medplum.base_url,
            "MEDPLUM_CLIENT_ID": medplum.client_id,
            "MEDPLUM_CLIENT_SECRET": medplum.client_secret,
        }
        secret = secrets.token_urlsafe(24)
        entry = {"id": CLIENT_ID, "secretHash": hash_secret(secret, secrets.token_bytes(16))}
        federated = {
            "FEDERATED_BASE_URL": "https://bots.clinic.example/federated",
            "FEDERATED_CLIENTS": json.dumps([entry]),
            "FEDERATED_SIGNING_KEY": secrets.token_urlsafe(32),
            "FEDERATED_AUDIT_SECONDS": "600",
        }
        with served({**login, **federated}) as origin:
            url = f"{origin}/federated"
            caller = FederatedCaller(f"{url}/oauth2/token", f"{url}/fhir/R4", CLIENT_ID, secret, aud=url)
            assert caller.query("nobody") == []
        server = connect_client(medplum.base_url, medplum.client_id, medplum.client_secret)
        assert len(server.search("AuditEvent", [("_count", "10")])) == 1
        with served(login) as origin:
            assert loopback.get(f"{origin}/federated/fhir/R4/metadata").status_code == 404
