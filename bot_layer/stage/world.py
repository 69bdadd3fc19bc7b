"""The embedded world: the look-alikes and the host, started together, wired to each other and stopped together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bot_layer.clients.medplum import Medplum, connect_client
from bot_layer.clients.transport import Patience
from bot_layer.core.json import Json
from bot_layer.runtime.host import HostServer, HostSettings
from bot_layer.sandbox.faults import Faults
from bot_layer.sandbox.health_gorilla import HealthGorillaSandbox, Switches
from bot_layer.sandbox.medplum import MedplumSandbox

SAMPLE_PEOPLE = Path(__file__).resolve().parents[2] / "fixtures" / "sample_people" / "bundle.json"


@dataclass(frozen=True)
class Options:
    """What the world shall be like; ports of 0 are free ones. ``db`` keeps Medplum's resources in an SQLite file."""

    port: int = 0
    health_gorilla_port: int = 0
    host_port: int = 0
    db: Path | None = None
    quota: int = 50_000
    operation_input: str = "resource"
    with_bots: bool = True
    medplum_faults: Faults = field(default_factory=Faults)
    partner_faults: Faults = field(default_factory=Faults)
    switches: Switches = field(default_factory=Switches)


class World:
    """Medplum, Health Gorilla and the bots' host on loopback, from ``start`` (or ``with``) until ``stop``."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self._stack = ExitStack()
        wanted = self.options
        self.medplum = MedplumSandbox(
            port=wanted.port,
            db=wanted.db,
            quota=wanted.quota,
            operation_input=wanted.operation_input,
            faults=wanted.medplum_faults,
        )
        self.gorilla = HealthGorillaSandbox(
            port=wanted.health_gorilla_port, switches=wanted.switches, faults=wanted.partner_faults
        )
        self.host: HostServer | None = None

    def start(self) -> Self:
        """The world itself, once all of it answers."""
        self._stack.enter_context(self.medplum)
        self._stack.enter_context(self.gorilla)
        if self.options.with_bots:
            self.host = self._stack.enter_context(
                HostServer(HostSettings(servers=(self.medplum.base_url,)), port=self.options.host_port)
            )
            self.medplum.bot_host = self.host.base_url.removeprefix("http://")
            self.put_secrets(self.settings())
        return self

    def stop(self) -> None:
        """Ends all of it."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def client(self) -> Medplum:
        """Medplum as its operator."""
        server = self.medplum
        return connect_client(server.base_url, server.client_id, server.client_secret, patience=Patience(backoff=0.05))

    def settings(self) -> dict[str, str]:
        """The project secrets with which the bots find the partners."""
        return {**self.gorilla.settings(), "BOT_BACKOFF_SECONDS": "0.05"}

    def put_secrets(self, settings: Mapping[str, str]) -> None:
        """Set the project's secrets, all of them."""
        secrets = [{"name": name, "valueString": value} for name, value in settings.items() if value]
        self.client().post(f"admin/projects/{self.medplum.project_id}/secrets", secrets)

    def environment(self) -> dict[str, str]:
        """The variables with which commands find this Medplum."""
        return {
            "MEDPLUM_BASE_URL": self.medplum.base_url,
            "MEDPLUM_CLIENT_ID": self.medplum.client_id,
            "MEDPLUM_CLIENT_SECRET": self.medplum.client_secret,
        }

    def ready(self) -> dict[str, Any]:
        """What a program needs to use the world: the line of ``medplum-bots sandbox --json``."""
        server, gorilla = self.medplum, self.gorilla
        told: dict[str, Any] = {
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
        }
        if self.host is not None:
            told["host"] = {"baseUrl": self.host.base_url}
        return told

    def load_sample_people(self) -> list[Json]:
        """The sample people, each once however often this is called: some match the directory, some do not."""
        text = SAMPLE_PEOPLE.read_text(encoding="utf-8").replace("<lab:0>", self.gorilla.labs[0])
        answers = self.client().batch(json.loads(text)["entry"])
        return [answer["resource"] for answer in answers if "resource" in answer]
