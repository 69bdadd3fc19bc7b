"""The embedded environment: the look-alikes and the host, started, connected and stopped together."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bot_layer.bot.collection import BUNDLED, load
from bot_layer.federation import routes as federated
from bot_layer.federation.rules.token import hash_secret
from bot_layer.fhir.json import Json
from bot_layer.host.host import HostServer, HostSettings
from bot_layer.host.listening import LOOPBACK, bind
from bot_layer.http.policy import RetryPolicy
from bot_layer.medplum.client import Medplum, connect_client
from medplum_sandbox.health_gorilla import HealthGorillaSandbox
from medplum_sandbox.medplum import MedplumSandbox
from medplum_sandbox.practice_fusion import PracticeFusionSandbox, Switches, generate

PATIENTS = 4
# The clinic's own settings; patients are registered with Medplum's ids.
FEDERATION = {
    "FEDERATED_PATIENT_SYSTEM": "https://clinic.example",
    "ADT_ASSIGNING_AUTHORITIES": '{"CLINIC": "https://clinic.example"}',
}
_SHAPES: Final = {"general": Switches.general(polls=0), "exact": Switches.exact()}
SAMPLE_PEOPLE = Path(__file__).with_name("sample_people.json")


@dataclass(frozen=True)
class Options:
    """The options of the environment; port 0 selects a free port. ``db`` is an SQLite file for Medplum's resources."""

    port: int = 0
    health_gorilla_port: int = 0
    practice_fusion_port: int = 0
    host_port: int = 0
    db: Path | None = None
    quota: int = 50_000
    version: str = "5.1"
    with_bots: bool = True
    practice_fusion: str = "general"  # or "exact"
    collections: tuple[str, ...] = (BUNDLED,)


class World:
    """Medplum, Health Gorilla, Practice Fusion and, on request, the bots' host on loopback, while in ``with``."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = wanted = options or Options()
        self._stack = ExitStack()
        self.medplum = MedplumSandbox(port=wanted.port, db=wanted.db, quota=wanted.quota, version=wanted.version)
        self.gorilla = HealthGorillaSandbox(port=wanted.health_gorilla_port)
        self.practice_fusion = PracticeFusionSandbox(
            generate(seed=7, patients=PATIENTS),
            port=wanted.practice_fusion_port,
            switches=_SHAPES[wanted.practice_fusion],
        )
        # Practice Fusion accepts only keys, of an app that the practice has authorized.
        self._practice_fusion_key = _registered(self.practice_fusion) if wanted.practice_fusion == "exact" else ""
        self.federated_client = "health-gorilla"
        self.federated_secret = secrets.token_urlsafe(32)
        self.host: HostServer | None = None

    def __enter__(self) -> Self:
        """Start everything; returns once every server answers."""
        for server in (self.medplum, self.gorilla, self.practice_fusion):
            self._stack.enter_context(server)
        if self.options.with_bots:
            self._start_host()
        elif self.options.host_port:
            # Like a Medplum whose Fission router points to a host that may not be running.
            self.medplum.bot_host = f"{LOOPBACK}:{self.options.host_port}"
        if self.medplum.bot_host:
            self.put_secrets(self.settings())
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start_host(self) -> None:
        # The responder must know its public address before it listens there.
        bound = self._stack.enter_context(bind(LOOPBACK, self.options.host_port or 0))
        port = bound.getsockname()[1]
        hashed = hash_secret(self.federated_secret, secrets.token_bytes(16))
        settings = {
            "FEDERATED_BASE_URL": f"http://{LOOPBACK}:{port}{federated.PREFIX}",
            "FEDERATED_CLIENTS": json.dumps([{"id": self.federated_client, "secretHash": hashed}]),
            "FEDERATED_SIGNING_KEY": secrets.token_urlsafe(48),
            **FEDERATION,
        }
        responder = federated.Responder({**self.environment(), **settings})
        self._stack.callback(responder.close)
        host = HostSettings(
            servers=(self.medplum.base_url,),
            bots=load(*self.options.collections),
            more_routes=tuple(responder.routes()),
        )
        self.host = self._stack.enter_context(HostServer(host, bound=bound))
        self.medplum.bot_host = self.host.base_url.removeprefix("http://")

    def client(self) -> Medplum:
        """A Medplum client with the operator's login."""
        server = self.medplum
        return connect_client(
            server.base_url, server.client_id, server.client_secret, patience=RetryPolicy(backoff=0.05)
        )

    def settings(self) -> dict[str, str]:
        """The project secrets with which the bots find the partners."""
        partners = {**self.gorilla.settings(), **self.practice_fusion.settings()}
        key = {"PF_PRIVATE_KEY": self._practice_fusion_key} if self._practice_fusion_key else {}
        return {**partners, **key, **FEDERATION, "BOT_BACKOFF_SECONDS": "0.05"}

    def put_secrets(self, settings: Mapping[str, str]) -> None:
        """Set the project's secrets, all of them."""
        named = [{"name": name, "valueString": value} for name, value in settings.items() if value]
        self.client().post(f"admin/projects/{self.medplum.project_id}/secrets", named)

    def environment(self) -> dict[str, str]:
        """The variables with which commands find this Medplum."""
        return {
            "MEDPLUM_BASE_URL": self.medplum.base_url,
            "MEDPLUM_CLIENT_ID": self.medplum.client_id,
            "MEDPLUM_CLIENT_SECRET": self.medplum.client_secret,
        }

    def ready(self) -> dict[str, Any]:
        """What a program needs to use the environment: the output line of ``medplum-bots sandbox --json``."""
        server, gorilla, source = self.medplum, self.gorilla, self.practice_fusion
        found: dict[str, Any] = {
            "medplum": {
                "baseUrl": server.base_url,
                "clientId": server.client_id,
                "clientSecret": server.client_secret,
                "projectId": server.project_id,
            },
            "healthGorilla": {
                "baseUrl": gorilla.base_url,
                "tokenUrl": gorilla.token_url,
                "clientId": gorilla.client_id,
                "clientSecret": gorilla.client_secret,
                "tenantId": gorilla.tenant_id,
            },
            "practiceFusion": {
                "baseUrl": source.base_url,
                "tokenUrl": source.token_url,
                "clientId": source.client_id,
                "clientSecret": source.client_secret,
                "groupId": source.group_id,
            },
        }
        if self.host is not None:
            found["host"] = {"baseUrl": self.host.base_url}
            found["federated"] = {
                "baseUrl": f"{self.host.base_url}{federated.PREFIX}/fhir/R4",
                "tokenUrl": f"{self.host.base_url}{federated.PREFIX}/oauth2/token",
                "clientId": self.federated_client,
                "clientSecret": self.federated_secret,
            }
        return found

    def load_sample_people(self) -> list[Json]:
        """Load the sample people, without duplicates if called again: some match the directory, some do not."""
        text = SAMPLE_PEOPLE.read_text(encoding="utf-8").replace("<lab:0>", self.gorilla.labs[0])
        answers = self.client().batch(json.loads(text)["entry"])
        return [answer["resource"] for answer in answers if "resource" in answer]


def _registered(source: PracticeFusionSandbox) -> str:
    """A new private key for the app: the source has the public key, and the practice has authorized the app."""
    key = ec.generate_private_key(ec.SECP384R1())
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    source.register_public_key(public.decode(), "sandbox-key", "ES384")
    source.authorize_app()
    unlocked = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, unlocked).decode()


def free_port() -> int:
    """A currently unused port of this machine."""
    with bind(LOOPBACK, 0) as bound:
        port: int = bound.getsockname()[1]
        return port
