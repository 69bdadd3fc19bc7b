"""A practice in Medplum: tenant, locations and laboratories are Organizations with a Health Gorilla id.

A tenant's id begins with ``t-``, a location's with ``tl-``, a laboratory's with ``f-``.
https://www.medplum.com/docs/integration/health-gorilla/multiple-locations
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from bot_layer.errors import InputError
from bot_layer.fhir import identifiers, parameters
from bot_layer.fhir.json import Json
from bot_layer.fhir.periods import current
from bot_layer.health_gorilla.rules.clinician import AccountNumber, own_numbers, reference_of
from bot_layer.health_gorilla.rules.settings import SYSTEM

# Medplum's ids are UUIDs, so these prefixes mark Health Gorilla's own ids.
PREFIXES = ("t-", "tl-", "f-")


@dataclass(frozen=True)
class PracticeOrganization:
    """An Organization of Medplum: its Health Gorilla ids that are in force, and a location's account numbers."""

    health_gorilla_ids: tuple[str, ...] = ()
    numbers: tuple[AccountNumber, ...] = field(default=(), repr=False)

    @classmethod
    def read(cls, organization: Json, now: datetime) -> PracticeOrganization:
        """The Organization as a value."""
        valid = current(organization.get("identifier"), now)
        numbers = own_numbers(organization, "Organization", now)
        return cls(tuple(identifiers.values_of(valid, SYSTEM)), tuple(numbers))


Organizations = Mapping[str, PracticeOrganization]


def references(given: Json, name: str) -> list[str]:
    """The Organizations that input parameters of a name refer to, each once; InputError for any other type."""
    found: list[str] = []
    for value in parameters.values(given, name):
        reference = reference_of(value)
        if not reference.startswith("Organization/"):
            where = [f"Parameters.parameter.where(name='{name}')"]
            text = f"The reference in {name} must have the form Organization/{{id}}."
            raise InputError(text, code="wrong-target", expression=where)
        found.append(reference)
    return list(dict.fromkeys(found))


def health_gorilla_reference(reference: str, organizations: Organizations, prefix: str) -> str | None:
    """``Organization/tl-...`` for an Organization of Medplum that carries such an id, or for one given as that."""
    if reference.startswith(f"Organization/{prefix}"):
        return reference
    known = organizations[reference].health_gorilla_ids if reference in organizations else ()
    return next((f"Organization/{value}" for value in known if value.startswith(prefix)), None)


def resolve_locations(wanted: Sequence[str], organizations: Organizations) -> list[str]:
    """The locations as Health Gorilla names them; InputError where one has not been made there yet."""
    found = [health_gorilla_reference(reference, organizations, "tl-") for reference in wanted]
    missing = found.count(None)
    if missing:
        text = f"{missing} of {len(wanted)} locations have no Health Gorilla id (tl-...): run $sync-location first."
        raise InputError(text, code="location-not-synced", expression=["Organization.identifier"])
    return [reference for reference in found if reference]


def resolve_tenant(reference: str, organizations: Organizations) -> str:
    """The tenant's id (``t-...``); InputError where the Organization carries none."""
    found = health_gorilla_reference(reference, organizations, "t-")
    if found is None:
        text = "The Organization given as organization has no Health Gorilla id of a tenant (t-...)."
        raise InputError(text, code="tenant-not-known", expression=["Organization.identifier"])
    return found.partition("/")[2]
