"""Organization: tenants (t-) and facilities (f-) are there, practice locations (tl-) are created and updated."""

from __future__ import annotations

from typing import Any

from medplum_sandbox.health_gorilla import codes
from medplum_sandbox.health_gorilla.outcomes import entry, refused, searchset
from medplum_sandbox.health_gorilla.role_rules import check_structure
from medplum_sandbox.health_gorilla.searching import (
    check_names,
    coding_pairs,
    identifier_pairs,
    page,
    string_matches,
    token_matches,
)
from medplum_sandbox.health_gorilla.state import State, new_id
from medplum_sandbox.health_gorilla.wire import Ask
from medplum_sandbox.json import Json

_ADDRESS = {
    "address-city": "city",
    "address-state": "state",
    "address-postalcode": "postalCode",
    "address-country": "country",
}
SEARCHES = frozenset(
    {"type", "name", "partof", "multi-tenant-id", "ordering-enabled", "identifier", "_id"} | set(_ADDRESS)
)


class Organizations:
    """The organizations of a state. The caller must hold the state's lock."""

    def __init__(self, state: State) -> None:
        self._state = state

    def create(self, body: Any) -> Json:
        """The new practice location."""
        resource = self._checked(body)
        self._check_duplicate(resource, None)
        location = self._stored(resource, new_id("tl-"))
        return location

    def read(self, organization_id: str) -> Json:
        """One organization."""
        if not self._visible(organization_id):
            raise refused(404, "not-found", "No such Organization.")
        return self._state.organizations[organization_id]

    def update(self, organization_id: str, body: Any, *, if_match: str | None) -> Json:
        """The changed practice location; the body replaces it."""
        existing = self.read(organization_id)
        if not organization_id.startswith("tl-"):
            raise refused(403, "forbidden", "Tenants and facilities can't be changed here.")
        if if_match is not None and if_match.strip('W/"') != existing["meta"]["versionId"]:
            raise refused(412, "conflict", "The Organization was changed in the meantime.")
        resource = self._checked(body)
        if resource.get("id", organization_id) != organization_id:
            raise refused(400, "invalid", "The id of the body is not the id of the URL.")
        self._check_duplicate(resource, organization_id)
        return self._stored(resource, organization_id)

    def search(self, ask: Ask, base_url: str, url: str) -> Json:
        """The organizations that match, without foreign tenants."""
        check_names(ask, "Organization", SEARCHES)
        everyone = [o for o in self._state.organizations.values() if self._visible(o["id"])]
        found = [o for o in everyone if all(self._fits(o, *pair) for pair in ask.query)]
        shown, next_url = page(ask, found, base_url, "Organization")
        entries = [entry(f"{base_url}/Organization/{o['id']}", o) for o in shown]
        return searchset(url, entries, total=len(found), now=self._state.now(), next_url=next_url)

    def _visible(self, organization_id: str) -> bool:
        foreign = organization_id.startswith("t-") and organization_id not in self._state.own_tenants
        return organization_id in self._state.organizations and not foreign

    def _checked(self, body: Any) -> Json:
        resource = check_structure(body, "Organization")
        status = self._state.switches.rule_status
        if not token_matches(f"{codes.ORGANIZATION_TYPE}|PRL", coding_pairs(resource.get("type", []))):
            raise refused(status, "business-rule", "type must be PRL: practice locations only are created.")
        if not resource.get("name"):
            raise refused(status, "business-rule", "name is required.", location=["Organization.name"])
        reference = resource.get("partOf", {}).get("reference", "")
        if reference.removeprefix("Organization/") not in self._state.own_tenants or "/" not in reference:
            raise refused(status, "business-rule", "partOf must be the tenant.", location=["Organization.partOf"])
        addresses = resource.get("address", [])
        if not addresses or any(not address.get("country") for address in addresses):
            raise refused(status, "business-rule", "address.country is required.", location=["Organization.address"])
        return resource

    def _check_duplicate(self, resource: Json, own_id: str | None) -> None:
        wanted = {pair for pair in identifier_pairs(resource) if pair[0] not in (None, codes.SYSTEM)}
        for other in self._state.organizations.values():
            if other["id"] != own_id and not wanted.isdisjoint(identifier_pairs(other)):
                raise refused(409, "duplicate", "An Organization with this identifier already exists.")

    def _stored(self, resource: Json, organization_id: str) -> Json:
        own = {"system": codes.SYSTEM, "value": organization_id}
        others = [i for i in resource.get("identifier", []) if i.get("system") != codes.SYSTEM]
        stored = self._state.stamp({**resource, "id": organization_id, "identifier": [own, *others]})
        self._state.organizations[organization_id] = stored
        return stored

    def _fits(self, organization: Json, name: str, value: str) -> bool:
        name, _, modifier = name.partition(":")
        exact = modifier == "exact"
        if name in _ADDRESS:
            words = [a[_ADDRESS[name]] for a in organization.get("address", []) if _ADDRESS[name] in a]
            return string_matches(value, words, exact=exact)
        match name:
            case "type":
                return token_matches(value, coding_pairs(organization.get("type", [])))
            case "name":
                return string_matches(value, [organization["name"]], exact=exact)
            case "partof" | "multi-tenant-id":
                parent = codes.bare(organization.get("partOf", {}).get("reference", ""))
                return parent in map(codes.bare, value.split(","))
            case "ordering-enabled":
                return value == str(organization["id"] in self._state.labs).lower()
            case "identifier":
                return token_matches(value, identifier_pairs(organization))
            case "_id":
                return organization["id"] in value.split(",")
            case _:
                return True
