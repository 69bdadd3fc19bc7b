"""What a call and Medplum say of a practice, gathered in few searches: tenant, locations, laboratories, password."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from bot_layer.bot.event import Event
from bot_layer.errors import ConfigError, InputError
from bot_layer.fhir.json import Json
from bot_layer.fhir.parameters import one, path_of
from bot_layer.fhir.references import is_id, local, localized
from bot_layer.health_gorilla.client import HealthGorillaClient
from bot_layer.health_gorilla.rules import account_request as rules
from bot_layer.health_gorilla.rules import practitioner_role as role_rules
from bot_layer.health_gorilla.rules.account_request import AccountRequest, PracticeOrganization
from bot_layer.health_gorilla.rules.clinician import Clinician
from bot_layer.health_gorilla.rules.settings import HealthGorilla
from bot_layer.medplum.client import Medplum

PASSWORD_SECRET = "HEALTH_GORILLA_PASSWORD"  # noqa: S105  # the name of a secret, not its value


def in_tenant(
    gorilla: HealthGorillaClient, server: Medplum, event: Event, now: datetime, *, part_of: Json | None = None
) -> HealthGorillaClient:
    """Health Gorilla in the tenant that the parameter ``organization`` names, else in the configured one.

    ``part_of`` is an Organization whose parent in Medplum may be a tenant: that one comes before the configured one.
    """
    named = rules.references(localized(event.parameters, event.base_url), "organization")
    if named:
        tenant = rules.resolve_tenant(named[0], organizations(server, named, now))
    else:
        parent = local(str((part_of or {}).get("partOf", {}).get("reference") or ""), event.base_url)
        found = rules.health_gorilla_reference(parent, organizations(server, [parent], now), "t-")
        tenant = (found or "").partition("/")[2]
    return replace(gorilla, settings=gorilla.settings.in_tenant(tenant))


def read_clinician(event: Event, practitioner: Json, now: datetime) -> Clinician:
    """The Practitioner as a value, whatever form its references to this Medplum have."""
    return Clinician.read(localized(practitioner, event.base_url), now)


def gather_request(
    server: Medplum, event: Event, clinician: Clinician, settings: HealthGorilla, now: datetime
) -> AccountRequest:
    """What the clinician's account is to have besides name and role.

    Account numbers and locations take one search, and a second one where a location has account numbers of its own.
    """
    locations = rules.references(localized(event.parameters, event.base_url), "location") or clinician.locations
    known = organizations(server, [*rules.assigners(clinician.numbers), *locations], now)
    resolved_locations = rules.resolve_locations(locations, known)
    of_locations = [number for reference in locations if reference in known for number in known[reference].numbers]
    more = [found for found in rules.assigners(of_locations) if found not in known]
    known |= organizations(server, more, now)
    requested = replace(
        rules.resolve_numbers([*clinician.numbers, *of_locations], known),
        locations=resolved_locations or None,
        emails=clinician.emails if settings.sync_email else (),
        password=password(event),
        practitioner_role=event.text("practitionerRole"),
    )
    return rules.with_single_sign_on(requested, clinician, settings)


def practitioner_role(server: Medplum, practitioner: str, now: datetime) -> str | None:
    """The practitioner role that the clinician's PractitionerRoles in Medplum give; None without one."""
    found = server.search("PractitionerRole", [("practitioner", practitioner), ("_count", "100")])
    return role_rules.of_roles(found, now)


def organizations(server: Medplum, wanted: Iterable[str], now: datetime) -> dict[str, PracticeOrganization]:
    """The Organizations of Medplum by reference, in one search; ids of Health Gorilla itself are not looked up."""
    ids = [reference.removeprefix("Organization/") for reference in dict.fromkeys(wanted)]
    ids = [found for found in ids if is_id(found) and not found.startswith(rules.PREFIXES)]
    if not ids:
        return {}
    found = server.search("Organization", [("_id", ",".join(ids)), ("_count", str(len(ids)))])
    base_url = server.client.base_url
    return {f"Organization/{each['id']}": PracticeOrganization.read(localized(each, base_url), now) for each in found}


def password(event: Event) -> str | None:
    """A first password for a new account, as a parameter or in a secret that the call names; it is stored nowhere.

    InputError for two ways at once, or for a secret that is meant for others. Medplum may store a bot's input, so the
    name of a secret is better. The password is never read from a query, which servers on the way write to their logs.
    """
    direct, named = (
        value if isinstance(value := one(event.parameters, name), str) else None
        for name in ("password", "passwordSecret")
    )
    if direct and named:
        text = "Give a password or the name of a secret, not both."
        raise InputError(text, code="password-ambiguous", expression=[path_of("password")])
    if not named:
        return direct
    if named != PASSWORD_SECRET:
        text = f"Only the secret {PASSWORD_SECRET} can be a password."
        raise InputError(text, code="password-secret-unknown", expression=[path_of("passwordSecret")])
    if not event.secrets.get(PASSWORD_SECRET):
        raise ConfigError.for_missing([PASSWORD_SECRET])
    return event.secrets[PASSWORD_SECRET]
