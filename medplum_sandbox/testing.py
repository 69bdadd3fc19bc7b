"""A Medplum look-alike for tests: one server for each version, and a project of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import httpx

from medplum_sandbox.faults import Faults
from medplum_sandbox.json import Json
from medplum_sandbox.medplum import MedplumSandbox
from medplum_sandbox.medplum.projects import new_project
from medplum_sandbox.medplum.world import SERVER_VERSION, ProjectInfo
from medplum_sandbox.shell import RequestRecord

_NO_LIMIT = 1_000_000_000


@dataclass
class MedplumProject:
    """A project on a look-alike, with a ClientApplication that administers it."""

    server: MedplumSandbox
    info: ProjectInfo
    _before: int = field(default=0, repr=False)

    @property
    def base_url(self) -> str:
        """The address of the server, without a slash at its end."""
        return self.server.base_url

    @property
    def project_id(self) -> str:
        """The id of the Project."""
        return self.info.project_id

    @property
    def client_id(self) -> str:
        """The id of the ClientApplication."""
        return self.info.client_id

    @property
    def client_secret(self) -> str:
        """Its secret."""
        return self.info.client_secret

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables that Medplum's own tools and those of this project read."""
        return {
            "MEDPLUM_BASE_URL": self.base_url,
            "MEDPLUM_CLIENT_ID": self.client_id,
            "MEDPLUM_CLIENT_SECRET": self.client_secret,
        }

    def token(self, profile: str | None = None) -> str:
        """An access token of the client, or of the member of the project with this profile (``Bot/ID``)."""
        return self.server.token_for(profile or f"ClientApplication/{self.client_id}", project_id=self.project_id)

    @cached_property
    def client(self) -> httpx.Client:
        """An HTTP client that is logged in; paths are relative to ``fhir/R4/``."""
        headers = {"Authorization": f"Bearer {self.token()}"}
        # The system's certificates would cost 30 ms, and loopback is spoken without TLS.
        return httpx.Client(base_url=f"{self.base_url}/fhir/R4/", headers=headers, verify=False, trust_env=False)  # noqa: S501

    def create(self, resource: Json) -> Json:
        """The stored resource; raises httpx.HTTPStatusError, with the server's words, if it is refused."""
        return _accepted(self.client.post(resource["resourceType"], json=resource))

    def read(self, reference: str) -> Json:
        """A resource by ``Type/id``; raises httpx.HTTPStatusError, with the server's words."""
        return _accepted(self.client.get(reference))

    def search(self, resource_type: str, **parameters: str) -> list[Json]:
        """The matches of a search on its first page of up to 1,000; raises httpx.HTTPStatusError likewise."""
        answer = _accepted(self.client.get(resource_type, params={"_count": "1000", **parameters}))
        return [entry["resource"] for entry in answer.get("entry", [])]

    @property
    def faults(self) -> Faults:
        """The switchboard of what goes wrong; it is empty again in the next test."""
        return self.server.faults

    @property
    def requests(self) -> list[RequestRecord]:
        """The requests since the test began, in the order of their answers."""
        return self.server.requests[self._before :]

    def settle(self, timeout: float = 10.0) -> None:
        """Wait until every Subscription and job that is due has run."""
        self.server.settle(timeout)


def _accepted(answer: httpx.Response) -> Json:
    """The body of a success; else an error that says what the server did not accept."""
    if not answer.is_success:
        place = f"{answer.request.method} {answer.request.url.path}"
        text = f"{place}: {answer.status_code} {_words(answer)}"
        raise httpx.HTTPStatusError(text, request=answer.request, response=answer)
    body: Json = answer.json()
    return body


def _words(answer: httpx.Response) -> str:
    """The texts of an OperationOutcome; any other body as it is."""
    try:
        issues = answer.json()["issue"]
    except (ValueError, KeyError, TypeError):
        return answer.text
    return "; ".join(f"{each.get('details', {}).get('text', '')} {each.get('expression', '')}" for each in issues)


class MedplumServers:
    """The look-alikes of one process, by server version; each starts when a test first asks for it."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._running: dict[str, MedplumSandbox] = {}

    @contextmanager
    def project(
        self, *, version: str = SERVER_VERSION, quota: int | None = None, features: Sequence[str] = ("bots", "cron")
    ) -> Iterator[MedplumProject]:
        """A fresh project; the server's faults are those of the test alone."""
        server = self._running.get(version) or self._start(version)
        info = new_project(server.world, "Test", features=features, user_fhir_quota=quota)
        project = MedplumProject(server, info, len(server.requests))
        try:
            yield project
        finally:
            server.settle()
            server.faults.clear()
            server.bot_host = None
            if "client" in project.__dict__:
                project.client.close()

    def _start(self, version: str) -> MedplumSandbox:
        server = MedplumSandbox(version=version, quota=_NO_LIMIT, auth_rate_limit=_NO_LIMIT)
        self._running[version] = self._stack.enter_context(server)
        return server
