"""What Medplum holds of a practice, gathered in as few searches as possible: tenant, locations, laboratories."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from bot_layer.bot.event import Event
from bot_layer.fhir import references
from bot_layer.fhir.json import Json
from bot_layer.fhir.references import is_id
from bot_layer.health_gorilla.client import HealthGorillaClient
from bot_layer.health_gorilla.rules import account_request, password
from bot_layer.health_gorilla.rules import practice_organizations as practice
from bot_layer.health_gorilla.rules import practitioner_role as role_rules
from bot_layer.health_gorilla.rules.account_request import AccountRequest
from bot_layer.health_gorilla.rules.clinician import Clinician
from bot_layer.health_gorilla.rules.practice_organizations import PracticeOrganization
from bot_layer.health_gorilla.rules.settings import HealthGorilla
from bot_layer.medplum.client import Medplum


def in_tenant(
    gorilla: HealthGorillaClient, server: Medplum, event: Event, now: datetime, *, part_of: Json | None = None
) -> HealthGorillaClient:
    """Health Gorilla in the tenant that the parameter ``organization`` names, else in the configured one.

    ``part_of`` is an Organization whose parent in Medplum may be a tenant: that one comes before the configured one.
    """
    named = practice.references(_parameters(event), "organization")
    if named:
        tenant = practice.resolve_tenant(named[0], organizations(server, named, now))
    else:
        given = str((part_of or {}).get("partOf", {}).get("reference") or "")
        parent = references.local(given, event.base_url)
        found = practice.health_gorilla_reference(parent, organizations(server, [parent], now), "t-")
        tenant = (found or "").partition("/")[2]
    return replace(gorilla, settings=gorilla.settings.in_tenant(tenant))


def read_clinician(event: Event, practitioner: Json, now: datetime) -> Clinician:
    """The Practitioner as a value, whatever form its references to this Medplum have."""
    return Clinician.read(references.localized(practitioner, event.base_url), now)


def gather_request(
    server: Medplum, event: Event, clinician: Clinician, settings: HealthGorilla, now: datetime
) -> AccountRequest:
    """What the clinician's account is to have besides name and role.

    Account numbers and locations take one search, and a second one where a location has account numbers of its own.
    """
    named = practice.references(_parameters(event), "location")
    locations = named or clinician.locations
    known = organizations(server, [*account_request.assigners(clinician.numbers), *locations], now)
    resolved_locations = practice.resolve_locations(locations, known)
    of_locations = [number for reference in locations if reference in known for number in known[reference].numbers]
    more = [found for found in account_request.assigners(of_locations) if found not in known]
    known |= organizations(server, more, now)

    requested = replace(
        account_request.resolve_numbers([*clinician.numbers, *of_locations], known),
        locations=resolved_locations or None,
        emails=clinician.emails if settings.sync_email else (),
        password=password.given(event),
        practitioner_role=event.text("practitionerRole"),
    )
    return account_request.with_single_sign_on(requested, clinician, settings)


def practitioner_role(server: Medplum, practitioner: str, now: datetime) -> str | None:
    """The practitioner role that the clinician's PractitionerRoles in Medplum give; None without one."""
    found = server.search("PractitionerRole", [("practitioner", practitioner), ("_count", "100")])
    return role_rules.of_roles(found, now)


def organizations(server: Medplum, wanted: Iterable[str], now: datetime) -> dict[str, PracticeOrganization]:
    """The Organizations of Medplum by reference, in one search; ids of Health Gorilla itself are not looked up."""
    ids = [reference.removeprefix("Organization/") for reference in dict.fromkeys(wanted)]
    ids = [found for found in ids if is_id(found) and not found.startswith(practice.PREFIXES)]
    if not ids:
        return {}
    found = server.search("Organization", [("_id", ",".join(ids)), ("_count", str(len(ids)))])
    base_url = server.client.base_url
    return {
        f"Organization/{each['id']}": PracticeOrganization.read(references.localized(each, base_url), now)
        for each in found
    }


def _parameters(event: Event) -> Json:
    return references.localized(event.parameters, event.base_url)
