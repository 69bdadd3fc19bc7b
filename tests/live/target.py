"""The server under test: the one in MEDPLUM_BASE_URL, or the look-alike; and how its state is restored."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from http import HTTPStatus

import requests

from bot_layer.fhir.json import Json
from medplum_sandbox.medplum import MedplumSandbox

SECONDS = 120.0
_NAMES = ("MEDPLUM_BASE_URL", "MEDPLUM_CLIENT_ID", "MEDPLUM_CLIENT_SECRET")
# Never deleted: the project and its users, the server's records, and resources that a search does not find.
_KEPT_TYPES = frozenset({"AuditEvent", "Binary", "Login", "Project", "User"})
# What Medplum adds to FHIR; its CapabilityStatement does not name these types.
_OWN_TYPES = frozenset({"AccessPolicy", "Agent", "AsyncJob", "Bot", "BulkDataExport", "ClientApplication", "Login"}) | {
    *("Project", "ProjectMembership", "SmartAppLaunch", "UserConfiguration"),
}
# Written in this order, because a server may refuse to delete what another resource needs.
_FIRST = ("Subscription", "OperationDefinition", "ProjectMembership", "Bot", "AccessPolicy")

Body = Json | list[Json] | str | None


class Refused(Exception):
    """The project is in use: nothing was tried."""


@dataclass
class Target:
    """A project on a server, seen by its administrator. ``router_port`` is where the server's Fission route calls."""

    base_url: str
    client_id: str
    client_secret: str
    router_port: int
    look_alike: MedplumSandbox | None = None
    token: str = field(default="", repr=False)
    version: str = ""
    before: frozenset[str] = frozenset()  # ``Type/id`` of the project's resources when the trial began
    left: dict[str, int] = field(default_factory=dict)  # how many more resources of a type there are after the trial

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables by which every command finds the server."""
        return dict(zip(_NAMES, (self.base_url, self.client_id, self.client_secret), strict=True))

    def login(self) -> None:
        """Take a token by client credentials, and read the server's version."""
        self.token = self.token_of(self.client_id, self.client_secret)
        self.version = str(requests.get(f"{self.base_url}/healthcheck", timeout=SECONDS).json().get("version", "?"))

    def token_of(self, client_id: str, secret: str) -> str:
        """A new access token of a client."""
        form = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": secret}
        answer = requests.post(f"{self.base_url}/oauth2/token", data=form, timeout=SECONDS)
        answer.raise_for_status()
        return str(answer.json()["access_token"])

    @cached_property
    def project_id(self) -> str:
        """The id of the client's project."""
        return str(self.rest("GET", "auth/me")["project"]["id"])

    def call(
        self, method: str, path: str, body: Body = None, *, content_type: str = "application/fhir+json"
    ) -> requests.Response:
        """The response to a request under the server's root, whatever its status; with a new token if needed."""
        answer = self._call(method, path, body, content_type)
        if answer.status_code != HTTPStatus.UNAUTHORIZED:
            return answer
        self.login()
        return self._call(method, path, body, content_type)

    def _call(self, method: str, path: str, body: Body, content_type: str) -> requests.Response:
        return requests.request(
            method,
            f"{self.base_url}/{path.lstrip('/')}",
            json=body if not isinstance(body, str) else None,
            data=body.encode() if isinstance(body, str) else None,
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": content_type},
            timeout=SECONDS,
        )

    def rest(self, method: str, path: str, body: Json | None = None) -> Json:
        """The JSON of an answer; AssertionError with status and issues if it is no success."""
        answer = self.call(method, path, body)
        assert answer.ok, (
            f"{method} {path.split('?', maxsplit=1)[0]} answered {answer.status_code}: {answer.text[:300]}"
        )
        found: Json = answer.json()
        return found

    def search(self, query: str) -> list[Json]:
        """Every match of a search, page by page."""
        found: list[Json] = []
        path = f"fhir/R4/{query}{'&' if '?' in query else '?'}_count=500"
        while path:
            page = self.rest("GET", path)
            found += [entry["resource"] for entry in page.get("entry", [])]
            following = [link["url"] for link in page.get("link", []) if link["relation"] == "next"]
            path = "fhir/R4/" + following[0].partition("/fhir/R4/")[2] if following else ""
        return found

    def remove(self, references: Iterable[str]) -> None:
        """Delete resources that the trial created, first those that make the server act; never earlier ones."""
        kinds = (each for each in set(references) - self.before if each.partition("/")[0] not in _KEPT_TYPES)
        made = sorted(kinds, key=_deletion_order)
        for reference in made:
            if reference.startswith("Bot/"):
                self._stop_timer(reference)
        for start in range(0, len(made), 100):
            entries = [{"request": {"method": "DELETE", "url": each}} for each in made[start : start + 100]]
            self.call("POST", "fhir/R4", {"resourceType": "Bundle", "type": "batch", "entry": entries})

    def _stop_timer(self, reference: str) -> None:
        """Remove a Bot's schedule: the server keeps the timer of a Bot that is deleted directly."""
        answer = self.call("GET", f"fhir/R4/{reference}")
        if answer.ok and "cronString" in (bot := answer.json()):
            self.call("PUT", f"fhir/R4/{reference}", {k: v for k, v in bot.items() if k != "cronString"})

    def set_secrets(self, secrets: list[Json]) -> None:
        """Replace all secrets of the project."""
        self.call("POST", f"admin/projects/{self.project_id}/secrets", secrets)

    def clear(self) -> None:
        """Delete everything that the trial created."""
        for _ in range(20):  # a page has 1,000 resources of a type
            made = _inventory(self) - self.before
            if not made:
                break
            binaries = _binaries(self, sorted(made))
            self.remove(made)
            for reference in binaries:
                self.call("DELETE", f"fhir/R4/{reference}")

    def eventually(self, check: Callable[[], bool], what: str, *, seconds: float = SECONDS) -> None:
        """Wait until it is so: a server delivers Subscriptions and timers when it can."""
        until = time.monotonic() + seconds
        while not check():
            assert time.monotonic() < until, f"{what}: not so after {seconds:.0f} s"
            time.sleep(0.1)

    def next_minute(self) -> None:
        """Let the timers of the next minute run; a real server needs up to a minute for it."""
        if self.look_alike is not None:
            self.look_alike.run_cron(datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(minutes=1))


@contextmanager
def opened(environ: Mapping[str, str] | None = None) -> Iterator[Target]:
    """The server in the environment, restored afterwards; without one a look-alike that ends with the trial."""
    given = os.environ if environ is None else environ
    if not given.get("MEDPLUM_BASE_URL"):
        quota = 1_000_000_000
        with (
            MedplumSandbox(quota=quota, auth_rate_limit=quota) as running,
            left_as_found(Target(running.base_url, running.client_id, running.client_secret, 0, running)) as target,
        ):
            yield target
        return
    missing = [name for name in _NAMES if not given.get(name)]
    if missing:
        raise Refused(f"Set {', '.join(missing)}.")
    base_url, client_id, secret = (given[name] for name in _NAMES)
    port = int(given.get("LIVE_ROUTER_PORT") or 8765)
    with left_as_found(Target(base_url.rstrip("/"), client_id, secret, port)) as target:
        yield target


@contextmanager
def left_as_found(target: Target) -> Iterator[Target]:
    """Log in; afterwards delete what the trial created, and restore the project's secrets.

    ``target.left`` then says what remains. Raises Refused if the project has Patients: it is in use.
    """
    target.login()
    if target.search("Patient?_elements=id"):
        raise Refused("This project holds Patients: name a project of its own that may be thrown away.")
    before, secrets = _counts(target), _secrets(target)
    target.before = frozenset(_inventory(target))
    try:
        yield target
    finally:
        target.login()
        target.clear()
        target.set_secrets(secrets)
        now = _counts(target)
        target.left = {kind: now[kind] - before.get(kind, 0) for kind in now if now[kind] != before.get(kind, 0)}


def _types(target: Target) -> set[str]:
    statement = target.rest("GET", "fhir/R4/metadata")
    return {*_OWN_TYPES} | {each["type"] for each in statement["rest"][0]["resource"]}


def _counts(target: Target) -> dict[str, int]:
    """How many resources of each type the project has, as far as its administrator may search them."""
    found: dict[str, int] = {}
    for resource_type in _types(target):
        answer = target.call("GET", f"fhir/R4/{resource_type}?_total=accurate&_count=0")
        if answer.ok:
            found[resource_type] = int(answer.json().get("total", 0))
    return found


def _inventory(target: Target) -> set[str]:
    """``Type/id`` of everything in the project."""
    found: set[str] = set()
    for resource_type in _types(target) - _KEPT_TYPES:
        answer = target.call("GET", f"fhir/R4/{resource_type}?_elements=id&_count=1000")
        if answer.ok:
            found |= {f"{resource_type}/{entry['resource']['id']}" for entry in answer.json().get("entry", [])}
    return found


def _secrets(target: Target) -> list[Json]:
    found = target.rest("GET", f"admin/projects/{target.project_id}").get("project", {}).get("secret", [])
    return list(found)


def _deletion_order(reference: str) -> tuple[int, str]:
    kind = reference.partition("/")[0]
    return (_FIRST.index(kind) if kind in _FIRST else len(_FIRST), reference)


def _binaries(target: Target, references: list[str]) -> list[str]:
    """The Binaries of documents that are about to be deleted; no search finds them."""
    found: set[str] = set()
    for reference in references:
        if reference.startswith(("DocumentReference/", "DiagnosticReport/", "Media/")):
            text = target.call("GET", f"fhir/R4/{reference}").text
            found |= {f"Binary/{each}" for each in re.findall(r"/storage/([0-9a-f-]{36})/", text)}
    return sorted(found)
