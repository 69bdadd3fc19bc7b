"""Health Gorilla's FHIR API for practitioners: the NPI directory and user accounts (PractitionerRole).

https://developer.healthgorilla.com/docs/practitionerrole
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from bot_layer.errors import PermanentError
from bot_layer.fhir import identifiers
from bot_layer.fhir.bundle import NotASearchset, Searchset, read_searchset
from bot_layer.fhir.identifiers import NPI_SYSTEM
from bot_layer.fhir.json import Json, as_object
from bot_layer.fhir.references import is_id
from bot_layer.health_gorilla.rules import accounts
from bot_layer.health_gorilla.rules import settings as hg
from bot_layer.health_gorilla.rules.enrollment import DirectoryEntry, Enrollment
from bot_layer.health_gorilla.rules.settings import HealthGorilla
from bot_layer.health_gorilla.token import Token, TokenStore
from bot_layer.http.addresses import Path, path, query_of
from bot_layer.http.answer import Answer
from bot_layer.http.policy import RetryPolicy
from bot_layer.http.transport import Transport

FHIR_JSON = "application/fhir+json"
_MOST_PAGES = 20
_TOKENS = TokenStore()
# Releases before July 2026 refuse identifier and organization in one search: known after the first refusal, for each
# server.
_NO_COMBINED_SEARCH: set[str] = set()
_WITH_PERSONS = ("_include", "PractitionerRole:practitioner")

Query = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class HealthGorillaClient:
    """One login at one tenant. Refusals come back as Answers where a rule reads them, else as errors."""

    settings: HealthGorilla
    transport: Transport
    clock: Callable[[], float] = field(default=time.time, repr=False)

    def token(self) -> Token:
        """The token in use."""
        return _TOKENS.get(self.settings, self.transport, self.clock)

    @property
    def now(self) -> datetime:
        """The time at which answers are read."""
        return datetime.fromtimestamp(self.clock(), UTC)

    def directory(self, npi: str) -> list[DirectoryEntry]:
        """The NPI directory's records of an NPI."""
        found = self.search("Practitioner", [("identifier", f"{NPI_SYSTEM}|{npi}")])
        people = [DirectoryEntry.read(each, self.now) for each in found if each["resourceType"] == "Practitioner"]
        return [entry for entry in people if not entry.npis or npi in entry.npis]

    def enrollments(self, npi: str) -> list[Enrollment]:
        """The accounts of an NPI in the tenant."""
        found = self._in_tenant([("identifier", f"{NPI_SYSTEM}|{npi}"), _WITH_PERSONS])
        # A server that ignores a search parameter returns other people.
        known = [(account, identifiers.npis((account.person or {}).get("identifier", []))) for account in found]
        return [account for account, npis in known if not npis or npi in npis]

    def accounts_of(self, person_id: str) -> list[Enrollment]:
        """The accounts of a person by Health Gorilla id in the tenant."""
        return self._in_tenant([("practitioner", person_id), _WITH_PERSONS])

    def members(self) -> list[Enrollment]:
        """Every account of the tenant. The answer is long: use it only where no id or NPI identifies the person."""
        query = [("organization", self.settings.tenant_id), _WITH_PERSONS]
        return self._roles(self.search("PractitionerRole", query))

    def enrollment(self, role_id: str) -> Enrollment:
        """One account by the PractitionerRole's id."""
        answer = self.send("GET", path("PractitionerRole/{id}", id=role_id))
        return self.account(resource_of(answer))

    def create(self, resource_type: str, resource: Json, *, unless_found: str | None = None) -> Answer:
        """The answer to a create, whatever its status; the key makes a repetition of the same content harmless.

        ``unless_found`` is a search for what must not exist yet (If-None-Exist).
        """
        headers = {"If-None-Exist": unless_found} if unless_found else {}
        key = accounts.idempotency_key(self.settings.base_url, self.settings.tenant_id, resource)
        headers["HG-Idempotency-Key"] = key
        return self.send("POST", path(resource_type), json_body=resource, headers=headers)

    def update(self, resource_type: str, resource: Json) -> Answer:
        """The answer to a PUT of the whole resource, guarded by If-Match where its version is known."""
        version = as_object(resource.get("meta")).get("versionId")
        headers = {"If-Match": f'W/"{version}"'} if version else {}
        where = path(f"{resource_type}/{{id}}", id=str(resource["id"]))
        return self.send("PUT", where, json_body=resource, headers=headers)

    def search(self, resource_type: str, query: Query) -> list[Json]:
        """Every resource of a search, also included ones: at most 20 pages, never a part of a longer answer."""
        return self._whole(resource_type, self.send("GET", path(resource_type), query=query))

    def _whole(self, resource_type: str, answer: Answer) -> list[Json]:
        """The resources of a search whose first page is answered. Of a link to the next page only the query is used."""
        page = searchset_of(answer, resource_type)
        found, total = [*page.resources], page.total
        for _ in range(_MOST_PAGES - 1):
            if page.next_url is None:
                break
            answer = self.send("GET", path(resource_type), query=query_of(page.next_url))
            page = searchset_of(answer, resource_type)
            found += page.resources
        if page.next_url is not None:
            raise PermanentError(
                f"Health Gorilla's answer has more than {_MOST_PAGES} pages.",
                service=self.transport.service,
                method="GET",
                path=resource_type,
                code="answer-too-large",
            )
        if total is not None and total > len(found):
            raise answer.unreadable("counted more matches of a search than it sent")
        return found

    def send(
        self,
        method: str,
        where: Path,
        *,
        query: Query = (),
        json_body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """The answer to a FHIR call with the bearer token; a token that ended early is replaced once.

        Raises for answers of 401, 403, 429 and 5xx, and for a gateway's page in place of an answer to a write; all
        others come back.
        """

        def attempt(token: Token) -> Answer:
            sent = {"Authorization": f"Bearer {token.value}", "Accept": FHIR_JSON, **(headers or {})}
            if json_body is not None:
                sent["Content-Type"] = FHIR_JSON
            url = f"{self.settings.base_url}/{where}"
            return self.transport.send(
                method, url, path=where.template, headers=sent, params=list(query) or None, json_body=json_body
            )

        token = self.token()
        answer = attempt(token)
        if answer.status == 401:
            _TOKENS.drop(self.settings, token)
            answer = attempt(self.token())
        if answer.status in {401, 403, 429} or answer.status >= 500:
            raise answer.error()
        # A page with status 200 does not say that anything was written; only Health Gorilla itself answers 201.
        if method != "GET" and answer.ok and answer.status != 201:
            answer.json()
        return answer

    def account(self, role: Json, people: Sequence[Json] = ()) -> Enrollment:
        """The account with its person, who is read where neither the role nor the search contains them."""
        person = accounts.person_of(role, people)
        reference = accounts.person_reference(role)
        if person is None and reference and not reference.startswith("#"):
            person_id = reference.rpartition("/")[2]
            answer = self.send("GET", path("Practitioner/{id}", id=person_id))
            # Some users can't be read on their own; the role's reference has their id all the same.
            person = None if answer.status == 404 else resource_of(answer)
        return Enrollment.read(role, person, self.now)

    def _in_tenant(self, query: list[tuple[str, str]]) -> list[Enrollment]:
        """The roles of the tenant: by one combined search where this release allows it, else filtered here."""
        if self.settings.base_url not in _NO_COMBINED_SEARCH:
            combined = [*query, ("organization", self.settings.tenant_id)]
            answer = self.send("GET", path("PractitionerRole"), query=combined)
            if answer.status != 400:
                return self._roles(self._whole("PractitionerRole", answer))
            _NO_COMBINED_SEARCH.add(self.settings.base_url)
        return self._roles(self.search("PractitionerRole", query))

    def _roles(self, found: list[Json]) -> list[Enrollment]:
        people = [resource for resource in found if resource.get("resourceType") == "Practitioner"]
        roles = [resource for resource in found if resource.get("resourceType") == "PractitionerRole"]
        return [self.account(role, people) for role in roles if self._is_ours(role)]

    def _is_ours(self, role: Json) -> bool:
        """True where the role is of the tenant; one without organization is of the login's own tenant."""
        organization = hg.bare_id(str(role.get("organization", {}).get("reference") or ""))
        return (organization or self.settings.home_tenant_id) == self.settings.tenant_id


def connect(secrets: Mapping[str, str]) -> HealthGorillaClient:
    """The client that the settings describe; one ConfigError names everything that is missing."""
    return HealthGorillaClient(hg.read(secrets), Transport("Health Gorilla", RetryPolicy.from_settings(secrets)))


def resource_of(answer: Answer) -> Json:
    """The resource that a read answered. An empty answer is an error: it must not count as "not found"."""
    if not answer.ok:
        raise answer.error()
    parsed = answer.json()
    if isinstance(parsed, dict) and isinstance(parsed.get("resourceType"), str):
        return parsed
    raise answer.unreadable("answered without a resource")


def searchset_of(answer: Answer, resource_type: str) -> Searchset:
    """One page of a search."""
    if not answer.ok:
        raise answer.error()
    try:
        return read_searchset(answer.json(), resource_type)
    except NotASearchset as fault:
        raise answer.unreadable(str(fault)) from fault


def created_id(answer: Answer, resource_type: str) -> str | None:
    """The id of the created resource, from the Location header in any of its forms, else from the body; else None."""
    steps = re.split(r"[?#]", answer.headers.get("Location", ""))[0].split("/")
    named = steps[steps.index(resource_type) + 1] if resource_type in steps[:-1] else ""
    if named:
        return named if is_id(named) else None
    found = answer.outcome()
    return found["id"] if found.get("resourceType") == resource_type and is_id(found.get("id")) else None
