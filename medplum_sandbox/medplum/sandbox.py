"""The Medplum look-alike: start, stop, and its settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from medplum_sandbox.faults import Faults
from medplum_sandbox.medplum import bot_half
from medplum_sandbox.medplum.app import build_app
from medplum_sandbox.medplum.middleware import Gate
from medplum_sandbox.medplum.oauth import issue_token
from medplum_sandbox.medplum.projects import load_quota, new_project
from medplum_sandbox.medplum.store import Store
from medplum_sandbox.medplum.versions import Behavior, behavior_of
from medplum_sandbox.medplum.world import SERVER_VERSION, ProjectInfo, Settings, World
from medplum_sandbox.server import Server
from medplum_sandbox.shell import LookAlike, RequestRecord

# Obviously invented, and the same at each start: what a README can print.
PROJECT_ID = "5a9dbc00-0000-4000-8000-000000000001"
CLIENT_ID = "5a9dbc00-0000-4000-8000-000000000002"
CLIENT_SECRET = "sandbox-secret-not-for-anything-real"  # noqa: S105  # it opens nothing but this sandbox


class MedplumSandbox(LookAlike):
    """A Medplum server on loopback, in memory or in a file, with one project and its client."""

    def __init__(
        self,
        *,
        port: int = 0,
        db: str | Path | None = None,
        quota: int = 50_000,
        bot_host: str | None = None,
        operation_input: str | None = None,
        honors_success: bool | None = None,
        version: str = SERVER_VERSION,
        lambda_endpoint: str | None = None,
        faults: Faults | None = None,
        features: Sequence[str] = ("bots", "cron"),
        auth_rate_limit: int = 160,
        project_name: str = "Sandbox",
        client_name: str = "sandbox client",
    ) -> None:
        settings = Settings(
            quota=quota,
            auth_rate_limit=auth_rate_limit,
            behavior=_behavior(version, operation_input, honors_success),
        )
        self.world = World(store=Store(str(db) if db else None), faults=faults or Faults(), settings=settings)
        self.world.bot_host = bot_host
        self.world.lambda_endpoint = lambda_endpoint
        self._gate = build_app(self.world, lambda app: Gate(app, self.world))
        self._server = Server(self._gate, port=port)
        self.world.base_url = self._server.base_url
        self.base_url = self._server.base_url
        bot_half.install(self.world)
        self._project = self._open_project(project_name, client_name, features)

    @property
    def project_id(self) -> str:
        """The id of the Project."""
        return self._project.project_id

    @property
    def client_id(self) -> str:
        """The id of the ClientApplication that administers the project."""
        return self._project.client_id

    @property
    def client_secret(self) -> str:
        """Its secret."""
        return self._project.client_secret

    @property
    def owner_profile_id(self) -> str:
        """The id of the owner's Practitioner, the one resource that a fresh project has."""
        return self._project.owner_profile_id

    @property
    def owner_email(self) -> str:
        """The owner's e-mail."""
        return self._project.owner_email

    @property
    def faults(self) -> Faults:
        """The faults that can be switched on."""
        return self.world.faults

    @property
    def requests(self) -> list[RequestRecord]:
        """The HTTP requests so far, in the order of their responses."""
        return self._gate.requests.all()

    @property
    def bot_host(self) -> str | None:
        """``host:port`` where bots of the runtime fission are called."""
        return self.world.bot_host

    @bot_host.setter
    def bot_host(self, address: str | None) -> None:
        self.world.bot_host = address

    def token_for(self, profile: str | None = None, *, project_id: str | None = None) -> str:
        """An access token of the project's client, or of the member whose profile is given as ``Type/id``."""
        wanted = profile or f"ClientApplication/{self.client_id}"
        with self.world.lock:
            rows = self.world.store.select(
                "r.project=? AND r.type='ProjectMembership' AND r.deleted=0",
                (project_id or self.project_id,),
                order="r.rid",
                limit=1000,
                offset=0,
            )
        members = [row.resource() for row in rows]
        membership = next(m for m in members if m["profile"]["reference"] == wanted)
        return issue_token(self.world, membership)

    def set_quota(self, units: int) -> None:
        """Sets the quota to this many units a minute, with none used."""
        self.world.quotas.restart(units)

    def settle(self, timeout: float = 10.0) -> None:
        """Waits until all deliveries and jobs are done."""
        bot_half.settle(self.world, timeout)

    def run_cron(self, minute: datetime) -> int:
        """Starts the bots that are due at that minute; returns how many."""
        return bot_half.run_cron(self.world, minute)

    def start_cron(self) -> None:
        """Runs the due bots at every full minute."""
        bot_half.start_cron(self.world)

    def stop(self) -> None:
        """Stops requests and deliveries, and closes the database."""
        super().stop()
        bot_half.stop(self.world)
        with self.world.lock:
            self.world.store.close()

    def _open_project(self, name: str, client_name: str, features: Sequence[str]) -> ProjectInfo:
        """The project of the file, or a new one."""
        stored = self.world.store.get(PROJECT_ID)
        if stored is None:
            return new_project(
                self.world,
                name,
                features=features,
                client_id=CLIENT_ID,
                client_secret=CLIENT_SECRET,
                client_name=client_name,
                project_id=PROJECT_ID,
            )
        project = stored.resource()
        load_quota(self.world, project)
        email = project["owner"]["display"]
        client = self.world.store.get(CLIENT_ID)
        assert client is not None
        owner = client.resource()["meta"]["author"]["reference"].partition("/")[2]
        return ProjectInfo(PROJECT_ID, CLIENT_ID, CLIENT_SECRET, owner, email)


def _behavior(version: str, operation_input: str | None, honors_success: bool | None) -> Behavior:
    """The behavior of a version, with a test's overrides."""
    found = behavior_of(version)
    if operation_input is not None:
        gets_resource = operation_input == "resource"
        found = replace(found, operation_gets_resource=gets_resource, system_operations=gets_resource)
    return found if honors_success is None else replace(found, honors_success=honors_success)
