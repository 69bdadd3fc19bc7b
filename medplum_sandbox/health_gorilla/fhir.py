"""The FHIR endpoint: which method on which path does what, who may, and how it is answered."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from medplum_sandbox.health_gorilla.idempotency import IdempotencyKeys
from medplum_sandbox.health_gorilla.oauth import Authority, forbidden
from medplum_sandbox.health_gorilla.organizations import Organizations
from medplum_sandbox.health_gorilla.outcomes import refused
from medplum_sandbox.health_gorilla.patients import Patients
from medplum_sandbox.health_gorilla.practitioners import Practitioners
from medplum_sandbox.health_gorilla.roles import Roles
from medplum_sandbox.health_gorilla.state import State
from medplum_sandbox.health_gorilla.wire import Answer, Ask, Refused
from medplum_sandbox.json import Json

PREFIX = "/fhir/R4"
JSON_TYPES = frozenset({"application/fhir+json", "application/json"})
# What each type can do: https://hl7.org/fhir/R4/http.html, as far as the capability statement declares it.
INTERACTIONS: dict[str, tuple[str, ...]] = {
    "Practitioner": ("read", "search-type"),
    "PractitionerRole": ("create", "read", "update", "search-type"),
    "Organization": ("create", "read", "update", "search-type"),
    "Patient": ("create", "read", "update", "search-type"),
}
_METHODS = {"POST": "create", "PUT": "update"}


class FhirEndpoint:
    """Answers every request under ``/fhir/R4``."""

    def __init__(self, state: State, authority: Authority, *, origin: str) -> None:
        self._state = state
        self._authority = authority
        self._origin = origin
        self._base_url = origin + PREFIX
        self._roles = Roles(state)
        self._practitioners = Practitioners(state, self._roles)
        self._organizations = Organizations(state)
        self._patients = Patients(state)
        self._keys = IdempotencyKeys(switches=state.switches, clock=state.clock)

    def answer(self, ask: Ask, url: str) -> Answer:
        """The answer; refusals included."""
        try:
            return self._answer(ask, url)
        except Refused as no:
            return no.answer

    def _answer(self, ask: Ask, url: str) -> Answer:
        if "//" in ask.path:
            return Answer(400)  # the real one gives no body to a double slash
        kind, *rest = ask.path.removeprefix(PREFIX).strip("/").split("/")
        if (ask.method, kind, rest) == ("GET", "metadata", []):
            return Answer(200, self._capabilities())
        scopes = self._authority.scopes(ask)
        interaction = self._interaction(ask, kind, rest)
        _check_scopes(scopes, kind, interaction)
        if interaction == "create":
            return self._keys.once(ask, lambda: self._create(kind, ask))
        if interaction == "update":
            return self._update(kind, rest[0], ask)
        return Answer(200, self._read(kind, rest[0])) if rest else Answer(200, self._search(kind, ask, url))

    def _interaction(self, ask: Ask, kind: str, rest: list[str]) -> str:
        if kind not in INTERACTIONS or len(rest) > 1 or (rest and rest[0].startswith(("_", "$"))):
            raise refused(404, "not-found", "Unknown resource type or path.")
        wanted = _METHODS.get(ask.method)
        if ask.method == "GET":
            wanted = "read" if rest else "search-type"
        on_instance = wanted in ("read", "update")
        if wanted not in INTERACTIONS[kind] or on_instance != bool(rest):
            text = "Invalid request: The FHIR endpoint on this server does not know how to handle"
            raise refused(405, "not-supported", f"{text} {ask.method} operation[{kind}]")
        return wanted

    def _create(self, kind: str, ask: Ask) -> Answer:
        body, switches = _json(ask), self._state.switches
        empty = switches.empty_create_body
        status = 201
        with self._state.lock:
            match kind:
                case "PractitionerRole":
                    resource = self._roles.create(body)
                case "Organization":
                    resource = self._organizations.create(body)
                case _:
                    status, resource = self._patients.create(body, if_none_exist=ask.headers.get("if-none-exist"))
                    empty = switches.patient_create_body == "empty"
        return Answer(status, None if empty else resource, {"Location": self._location(resource), **_etag(resource)})

    def _update(self, kind: str, resource_id: str, ask: Ask) -> Answer:
        body, if_match, status = _json(ask), ask.headers.get("if-match"), 200
        with self._state.lock:
            match kind:
                case "PractitionerRole":
                    resource = self._roles.update(resource_id, body, if_match=if_match)
                case "Organization":
                    resource = self._organizations.update(resource_id, body, if_match=if_match)
                case _:
                    status, resource = self._patients.update(resource_id, body, if_match=if_match)
        headers = _etag(resource) | ({"Location": self._location(resource)} if status == 201 else {})
        return Answer(status, None if self._state.switches.empty_update_body else resource, headers)

    def _read(self, kind: str, resource_id: str) -> Json:
        readers: dict[str, Callable[[str], Json]] = {
            "Practitioner": self._practitioners.read,
            "PractitionerRole": self._roles.read,
            "Organization": self._organizations.read,
            "Patient": self._patients.read,
        }
        with self._state.lock:
            return readers[kind](resource_id)

    def _search(self, kind: str, ask: Ask, url: str) -> Json:
        searches: dict[str, Callable[[Ask, str, str], Json]] = {
            "Practitioner": self._practitioners.search,
            "PractitionerRole": self._roles.search,
            "Organization": self._organizations.search,
            "Patient": self._patients.search,
        }
        with self._state.lock:
            return searches[kind](ask, self._base_url, url)

    def _location(self, resource: Json) -> str:
        shape = self._state.switches.location_header
        base = self._base_url if shape.startswith("absolute") else PREFIX
        history = f"/_history/{resource['meta']['versionId']}" if shape.endswith("history") else ""
        return f"{base}/{resource['resourceType']}/{resource['id']}{history}"

    def _capabilities(self) -> Json:
        kinds = [
            {"type": kind, "interaction": [{"code": code} for code in interactions]}
            for kind, interactions in INTERACTIONS.items()
        ]
        return {
            "resourceType": "CapabilityStatement",
            "status": "active",
            "date": self._state.now(),
            "kind": "instance",
            "software": {"name": "Health Gorilla look-alike (a sandbox)"},
            "implementation": {"description": "A sandbox on loopback", "url": self._base_url},
            "fhirVersion": "4.0.1",
            "format": ["application/fhir+json"],
            "rest": [{"mode": "server", "resource": kinds}],
        }


def _check_scopes(scopes: frozenset[str], kind: str, interaction: str) -> None:
    # Older documents name user/*.*, newer ones practitionerrole.write: both work.
    action = "write" if interaction in ("create", "update") else "read"
    enough = {"user/*.*", "system/*.*", f"user/{kind}.*", f"user/{kind}.{action}", f"{kind.lower()}.{action}"}
    if scopes.isdisjoint(enough):
        raise forbidden(f"{kind.lower()}.{action}")
    if kind == "PractitionerRole" and interaction == "create" and "create_users" not in scopes:
        raise forbidden("create_users")


def _json(ask: Ask) -> Any:
    kind = ask.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in JSON_TYPES:
        raise refused(415, "not-supported", "Send application/fhir+json.")
    try:
        return json.loads(ask.body)
    except ValueError:
        raise refused(400, "structure", "The body is not JSON.") from None


def _etag(resource: Json) -> dict[str, str]:
    return {"ETag": f'W/"{resource["meta"]["versionId"]}"'}
