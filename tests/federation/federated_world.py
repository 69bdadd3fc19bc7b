"""A clinic whose documents the network requests: Medplum, the responder on loopback, and Health Gorilla's side."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import httpx
from starlette.applications import Starlette

from bot_layer.federation.routes import Responder
from bot_layer.federation.rules.token import hash_secret
from bot_layer.fhir.json import Json
from bot_layer.host import listen
from bot_layer.host.listening import LOOPBACK, ThreadedServer, bind
from bot_layer.medplum.client import Medplum, connect_client
from medplum_sandbox.health_gorilla.network import FederatedCaller
from medplum_sandbox.medplum.sandbox import MedplumSandbox
from tests import loopback

CLIENT_ID = "health-gorilla"
CCD = b"<ClinicalDocument xmlns='urn:hl7-org:v3'><title>A summary \xc3\xa9</title></ClinicalDocument>\n"


@dataclass
class Network:
    """Everything that takes part. ``now`` is the responder's clock."""

    medplum: MedplumSandbox
    responder: Responder
    url: str
    secret: str
    now: list[float]

    @cached_property
    def server(self) -> Medplum:
        """Medplum as the clinic's own client: one login for all that a test stores."""
        return connect_client(self.medplum.base_url, self.medplum.client_id, self.medplum.client_secret)

    def caller(self, **changes: Any) -> FederatedCaller:
        """Health Gorilla."""
        urls = (f"{self.url}/oauth2/token", f"{self.url}/fhir/R4")
        return FederatedCaller(*urls, CLIENT_ID, changes.get("secret", self.secret), aud=f"{self.url}/fhir/R4")

    def http(self, *, token: str | None = None) -> httpx.Client:
        """Any client, with or without a token."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return loopback.client(base_url=self.url, headers=headers)

    def patient(self, **changes: Any) -> Json:
        """A registered patient."""
        registered = {"system": "https://www.healthgorilla.com", "value": secrets.token_hex(12)}
        return self.server.create({"resourceType": "Patient", "active": True, "identifier": [registered], **changes})

    def document(self, patient: Json, data: bytes = CCD, *, level: str | None = None, **changes: Any) -> Json:
        """A stored document of a patient, its bytes in a Binary."""
        content = {"contentType": "application/xml", "data": base64.b64encode(data).decode()}
        binary = self.server.create({"resourceType": "Binary", **content})
        system = "http://terminology.hl7.org/CodeSystem/v3-Confidentiality"
        label = {"securityLabel": [{"coding": [{"system": system, "code": level}]}]} if level else {}
        return self.server.create(
            {
                "resourceType": "DocumentReference",
                "status": "current",
                "subject": {"reference": f"Patient/{patient['id']}"},
                "date": "2026-01-02T03:04:05Z",
                "content": [{"attachment": {"contentType": "application/xml", "url": f"Binary/{binary['id']}"}}],
                **label,
                **changes,
            }
        )

    def audits(self) -> list[Json]:
        """The AuditEvents, once everything is written."""
        self.responder.recorder.flush()
        return self.server.search("AuditEvent", [("_count", "100")])


@contextmanager
def network(medplum: MedplumSandbox | None = None, **settings: str) -> Iterator[Network]:
    """A separate responder for one test, in front of a separate Medplum unless one is given."""
    with nullcontext(medplum) if medplum else MedplumSandbox() as sandbox, bind(LOOPBACK, 0) as bound:
        secret, now = secrets.token_urlsafe(24), [1_800_000_000.0]
        port = bound.getsockname()[1]
        environ = {
            "MEDPLUM_BASE_URL": sandbox.base_url,
            "MEDPLUM_CLIENT_ID": sandbox.client_id,
            "MEDPLUM_CLIENT_SECRET": sandbox.client_secret,
            "FEDERATED_BASE_URL": f"http://127.0.0.1:{port}/federated",
            "FEDERATED_CLIENTS": json.dumps(
                [{"id": CLIENT_ID, "secretHash": hash_secret(secret, secrets.token_bytes(16))}]
            ),
            "FEDERATED_SIGNING_KEY": secrets.token_urlsafe(32),
            "FEDERATED_CACHE_SECONDS": "0",
            "FEDERATED_AUDIT_SECONDS": "3600",  # ``audits`` writes what waits
            "BOT_BACKOFF_SECONDS": "0",
            **settings,
        }
        responder = Responder(environ, clock=lambda: now[0], monotonic=lambda: now[0])
        with ThreadedServer(listen.config(Starlette(routes=responder.routes()), grace=5), bound=bound) as server:
            yield Network(sandbox, responder, f"{server.base_url}/federated", secret, now)
        responder.close()
