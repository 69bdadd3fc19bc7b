"""A sandbox with a bot host, and the few calls with which tests run bots."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from bot_layer.fhir.json import Json
from medplum_sandbox.medplum.operations import IMPLEMENTATION
from medplum_sandbox.medplum.sandbox import MedplumSandbox
from tests import loopback
from tests.contract.bot_host import RecordingBotHost

FHIR = "application/fhir+json"


@dataclass(frozen=True)
class Scene:
    """The sandbox, the host, and an admin's HTTP client."""

    sandbox: MedplumSandbox
    host: RecordingBotHost
    http: httpx.Client

    def admin(self, path: str, body: Any) -> httpx.Response:
        """POST to an admin endpoint of the project."""
        return self.http.post(f"/admin/projects/{self.sandbox.project_id}/{path}", json=body)

    def bot(self, **fields: Any) -> Json:
        """A Bot with its membership; fields that the admin endpoint ignores are put afterwards."""
        made: Json = (
            self.admin("bot", {"name": "sync", "runtimeVersion": "fission", **fields}).raise_for_status().json()
        )
        late = {key: fields[key] for key in fields if key not in ("name", "runtimeVersion", "accessPolicy")}
        return self.put({**made, **late}) if late else made

    def create(self, resource: Json) -> Json:
        """The resource as it was created."""
        answer = self.http.post(f"/fhir/R4/{resource['resourceType']}", json=resource, headers={"Content-Type": FHIR})
        made: Json = answer.raise_for_status().json()
        return made

    def put(self, resource: Json) -> Json:
        """The resource as it was updated."""
        path = f"/fhir/R4/{resource['resourceType']}/{resource['id']}"
        put: Json = self.http.put(path, json=resource, headers={"Content-Type": FHIR}).raise_for_status().json()
        return put

    def operation(self, bot: Json, **fields: Any) -> Json:
        """``$sync``, carried out by the bot; one out parameter ``return`` of type Parameters."""
        return self.create(
            {
                "resourceType": "OperationDefinition",
                "extension": [{"url": IMPLEMENTATION, "valueReference": {"reference": f"Bot/{bot['id']}"}}],
                "name": "sync",
                "status": "active",
                "kind": "operation",
                "code": "sync",
                "resource": ["Practitioner"],
                "system": False,
                "type": True,
                "instance": True,
                "parameter": [{"use": "out", "name": "return", "type": "Parameters", "min": 1, "max": "1"}],
                **fields,
            }
        )

    def subscription(self, endpoint: str, *, criteria: str = "Practitioner", **fields: Any) -> Json:
        """An active rest-hook."""
        channel = {"type": "rest-hook", "endpoint": endpoint, **fields.pop("channel", {})}
        head = {"resourceType": "Subscription", "status": "active", "reason": "a test"}
        return self.create({**head, "criteria": criteria, "channel": channel, **fields})

    def answers(self, value: Any, **fields: Any) -> None:
        """What the host answers to the next call."""
        body = {"returnValue": value, "logResult": "", **fields}
        self.host.plan({"status": 200, "headers": {"Content-Type": "application/json"}, "body": body})

    def fails(self, status: int, body: Any = "broken") -> None:
        """The next call of the host is answered with this status."""
        self.host.plan({"status": status, "headers": {"Content-Type": "text/plain"}, "body": body})

    def events(self) -> list[Json]:
        """The events since the last call, after everything is settled."""
        self.sandbox.settle()
        return [call.body for call in iter(self._next_call, None)]

    def _next_call(self) -> Any:
        return self.host.next_call() if self.host.calls_waiting() else None


@contextmanager
def scene(**settings: Any) -> Iterator[Scene]:
    """A running sandbox with these settings."""
    with RecordingBotHost() as host, MedplumSandbox(bot_host=host.address, **settings) as sandbox:
        form = {
            "grant_type": "client_credentials",
            "client_id": sandbox.client_id,
            "client_secret": sandbox.client_secret,
        }
        answer = loopback.post(f"{sandbox.base_url}/oauth2/token", data=form).raise_for_status()
        headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
        with loopback.client(base_url=sandbox.base_url, headers=headers, timeout=240) as http:
            yield Scene(sandbox, host, http)
