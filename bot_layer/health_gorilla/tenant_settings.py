"""What Medplum holds of a practice, gathered in as few searches as it takes: tenant, locations, laboratories."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from bot_layer.bot.event import Event
from bot_layer.fhir import identifiers
from bot_layer.fhir.json import Json
from bot_layer.health_gorilla.client import HealthGorillaClient
from bot_layer.health_gorilla.rules import account_request, accounts, password
from bot_layer.health_gorilla.rules import practice_organizations as practice
from bot_layer.health_gorilla.rules.account_request import AccountRequest
from bot_layer.health_gorilla.rules.settings import HealthGorilla
from bot_layer.medplum.client import Medplum


def in_tenant(
    gorilla: HealthGorillaClient, server: Medplum, event: Event, *, part_of: Json | None = None
) -> HealthGorillaClient:
    """Health Gorilla in the tenant that the parameter ``organization`` names, else in the configured one.

    ``part_of`` is an Organization whose parent in Medplum may be a tenant: that one comes before the configured one.
    """
    named = practice.references(event.parameters, "organization")
    if named:
        tenant = practice.resolve_tenant(named[0], organizations(server, named))
    else:
        parent = str((part_of or {}).get("partOf", {}).get("reference") or "")
        found = practice.health_gorilla_reference(parent, organizations(server, [parent]), "t-")
        tenant = (found or "").partition("/")[2]
    return replace(gorilla, settings=gorilla.settings.in_tenant(tenant))


def gather_request(server: Medplum, event: Event, practitioner: Json, settings: HealthGorilla) -> AccountRequest:
    """What Health Gorilla shall have of the practitioner beside name and role.

    Account numbers and locations take one search, and a second one where a location has account numbers of its own.
    """
    named = practice.references(event.parameters, "location")
    locations = named or practice.locations_of(practitioner)
    own = practice.practice_numbers(practitioner)
    known = organizations(
        server, [*account_request.assigner_references(practitioner), *practice.assigners(own), *locations]
    )
    places = practice.resolve_locations(locations, known)
    numbers = [number for reference in locations for number in practice.numbers_of(known.get(reference, {}))]
    known |= organizations(server, [found for found in practice.assigners(numbers) if found not in known])

    requested = account_request.account_numbers(practitioner, known)
    of_practice, practice_issues = practice.resolve_numbers(own, known, "Practitioner.extension")
    of_places, place_issues = practice.resolve_numbers(numbers, known, "Organization.identifier")
    requested = replace(
        requested,
        identifiers=identifiers.merge(requested.identifiers, [*of_practice, *of_places]),
        locations=places or None,
        issues=[*requested.issues, *practice_issues, *place_issues],
        emails=accounts.emails_of(practitioner) if settings.sync_email else (),
        password=password.given(event),
    )
    return account_request.with_single_sign_on(requested, practitioner, settings)


def organizations(server: Medplum, references: Iterable[str]) -> dict[str, Json]:
    """The Organizations of Medplum by reference, in one search; ids of Health Gorilla itself are not looked up."""
    ids = [reference.partition("/")[2] for reference in dict.fromkeys(references)]
    ids = [found for found in ids if found and not found.startswith(practice.PREFIXES)]
    if not ids:
        return {}
    found = server.search("Organization", [("_id", ",".join(ids)), ("_count", str(len(ids)))])
    return {f"Organization/{organization['id']}": organization for organization in found}
