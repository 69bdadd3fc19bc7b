"""A practice as Medplum holds it: tenant, locations and laboratories are Organizations with a Health Gorilla id.

A tenant's id begins with ``t-``, a location's with ``tl-``, a laboratory's with ``f-``. Account numbers of a whole
practice stand on the practitioner under an extension keyed by laboratory, or on the location's Organization.
https://www.medplum.com/docs/integration/health-gorilla/multiple-locations
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bot_layer.errors import InputError
from bot_layer.fhir import identifiers, parameters
from bot_layer.fhir.json import Json
from bot_layer.fhir.outcomes import Issue, note, warning
from bot_layer.health_gorilla.rules.account_request import laboratory_of
from bot_layer.health_gorilla.rules.settings import SYSTEM

LOCATION_EXTENSION = "https://medplum.com/integrations/health-gorilla/practitioner-location"
# Medplum's ids are UUIDs, so these prefixes tell Health Gorilla's own ids apart.
PREFIXES = ("t-", "tl-", "f-")
LAB_ACCOUNT_EXTENSION = "https://medplum.com/integrations/health-gorilla/lab-org-account"


def references(given: Json, name: str) -> list[str]:
    """The Organizations that input parameters of a name refer to, each once; InputError for any other type."""
    found: list[str] = []
    for value in parameters.values(given, name):
        reference = _reference(value)
        if not reference.startswith("Organization/"):
            where = [f"Parameters.parameter.where(name='{name}')"]
            text = f"The reference in {name} must have the form Organization/{{id}}."
            raise InputError(text, code="wrong-target", expression=where)
        found.append(reference)
    return list(dict.fromkeys(found))


def locations_of(practitioner: Json) -> list[str]:
    """The practice locations that the practitioner's own extensions name, each once.

    One that names none that can be known stays in the list, to be refused: the list replaces the one in Health Gorilla,
    and a location would be lost there.
    """
    given = (found.get("valueReference") for found in practitioner.get("extension", ()) if _is_location(found))
    return list(dict.fromkeys(_place(value) for value in given if isinstance(value, dict)))


def health_gorilla_reference(reference: str, organizations: Mapping[str, Json], prefix: str) -> str | None:
    """``Organization/tl-...`` for an Organization of Medplum that carries such an id, or for one given as that."""
    if reference.startswith(f"Organization/{prefix}"):
        return reference
    known = organizations.get(reference, {}).get("identifier", [])
    return next(
        (f"Organization/{value}" for value in identifiers.values_of(known, SYSTEM) if value.startswith(prefix)), None
    )


def resolve_locations(wanted: Sequence[str], organizations: Mapping[str, Json]) -> list[str]:
    """The locations as Health Gorilla names them; InputError where one has not been made there yet."""
    found = [health_gorilla_reference(reference, organizations, "tl-") for reference in wanted]
    missing = found.count(None)
    if missing:
        text = f"{missing} of {len(wanted)} locations have no Health Gorilla id (tl-...): run $sync-location first."
        raise InputError(text, code="location-not-synced", expression=["Organization.identifier"])
    return [reference for reference in found if reference]


def resolve_tenant(reference: str, organizations: Mapping[str, Json]) -> str:
    """The tenant's id (``t-...``); InputError where the Organization carries none."""
    found = health_gorilla_reference(reference, organizations, "t-")
    if found is None:
        text = "The Organization given as organization has no Health Gorilla id of a tenant (t-...)."
        raise InputError(text, code="tenant-not-known", expression=["Organization.identifier"])
    return found.partition("/")[2]


def practice_numbers(practitioner: Json) -> list[Json]:
    """The practice's account numbers on the practitioner, as AN identifiers with an assigner of Medplum.

    The extension is complex, keyed by laboratory: whatever its parts are called, the one with a reference is the
    laboratory, and the one with text the number.
    """
    found: list[Json] = []
    for extension in practitioner.get("extension", ()):
        if extension.get("url") == LAB_ACCOUNT_EXTENSION:
            found.append(_number(extension.get("extension") or ()))
    return found


def numbers_of(organization: Json) -> list[Json]:
    """The account numbers on a location's Organization."""
    return [identifier for identifier in organization.get("identifier", ()) if identifiers.kind(identifier) == "AN"]


def assigners(numbers: Iterable[Json]) -> list[str]:
    """The Organizations of Medplum that gave the numbers, each once."""
    found = (identifiers.assigner(number) for number in numbers)
    return list(dict.fromkeys(reference for reference in found if reference.startswith("Organization/")))


def resolve_numbers(
    numbers: Sequence[Json], organizations: Mapping[str, Json], where: str
) -> tuple[list[Json], list[Issue]]:
    """The practice's account numbers as Health Gorilla writes them, and a warning for each that can't be resolved."""
    resolved: list[Json] = []
    issues: list[Issue] = []
    for number in numbers:
        laboratory = laboratory_of(number, organizations) or health_gorilla_reference(
            identifiers.assigner(number), organizations, "f-"
        )
        value = str(number.get("value") or "").strip()
        if number.get("use") == "old":
            issues.append(note("account-number-old", "An account number of the practice of use old was left out."))
        elif not value:
            text = "An account number of the practice has no value."
            issues.append(warning("account-number-empty", text, expression=[where]))
        elif laboratory is None:
            text = "The laboratory of a practice's account number is no Organization with a Health Gorilla id (f-...)."
            issues.append(warning("account-number-unresolved", text, expression=[where]))
        else:
            resolved.append(identifiers.account_number(laboratory, value))
    return resolved, issues


def _number(parts: Sequence[Json]) -> Json:
    found: Json = {"type": identifiers.typed("AN")}
    for part in parts:
        if isinstance(part.get("valueReference"), dict):
            found["assigner"] = part["valueReference"]
        elif isinstance(part.get("valueIdentifier"), dict):
            known = part["valueIdentifier"]
            found |= {key: known[key] for key in ("use", "value", "assigner") if key in known}
        elif isinstance(part.get("valueString"), str):
            found["value"] = part["valueString"]
    return found


def _is_location(extension: Json) -> bool:
    return extension.get("url") == LOCATION_EXTENSION


def _place(value: Json) -> str:
    """A Reference's text, or Health Gorilla's own where it names the location by its id alone."""
    logical = value.get("identifier")
    known = identifiers.values_of([logical], SYSTEM) if isinstance(logical, dict) else []
    return _reference(value) or (f"Organization/{known[0]}" if known else "")


def _reference(value: Any) -> str:
    """``Type/id`` of a Reference or of a whole resource; empty for anything else."""
    if not isinstance(value, dict):
        return ""
    if "resourceType" in value:
        return f"{value['resourceType']}/{value.get('id', '')}"
    return str(value.get("reference") or "")
