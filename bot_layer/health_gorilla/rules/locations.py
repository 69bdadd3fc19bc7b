"""A practice location: an Organization of Medplum as Health Gorilla wants it, compared with the one that it has.

Health Gorilla keeps a location as Organization of type PRL, part of the tenant, with an address that says its country.
https://www.medplum.com/docs/integration/health-gorilla/multiple-locations
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from bot_layer.errors import InputError, ReviewNeeded
from bot_layer.fhir import identifiers, parameters
from bot_layer.fhir.demographics import folded
from bot_layer.fhir.json import Json, codings
from bot_layer.fhir.periods import current
from bot_layer.health_gorilla.rules import answers, enrollment
from bot_layer.health_gorilla.rules.settings import SYSTEM, bare_id

TYPE = {"system": "https://www.healthgorilla.com/fhir/organization-type", "code": "PRL", "display": "Practice Location"}
DEFAULT_COUNTRY = "US"
_ADDRESS = ("line", "city", "state", "postalCode", "country")


@dataclass(frozen=True)
class Decision:
    """``created``, ``updated`` or ``unchanged``; ``payload`` is sent, ``found`` is what Health Gorilla has."""

    action: str
    payload: Json | None = field(default=None, repr=False)
    found: Json | None = field(default=None, repr=False)
    differences: Sequence[str] = ()


def wanted(organization: Json, tenant: str, now: datetime) -> Json:
    """The location to have in Health Gorilla. Raises InputError that names what the Organization lacks."""
    if organization.get("active") is False:
        text = "The Organization is inactive."
        raise InputError(text, code="organization-inactive", expression=["Organization.active"])
    name = str(organization.get("name") or "").strip()
    if not name:
        text = "The Organization needs a name."
        raise InputError(text, code="location-name-missing", expression=["Organization.name"])
    telecom = [
        {key: point[key] for key in ("system", "value", "use") if key in point}
        for point in current(organization.get("telecom"), now)
        if point.get("system") and point.get("value")
    ]
    found: Json = {
        "resourceType": "Organization",
        "active": True,
        "type": [{"coding": [TYPE], "text": "Practice Location"}],
        "name": name,
        "address": [_address(organization, now)],
        "partOf": {"reference": f"Organization/{tenant}"},
    }
    return {**found, "telecom": telecom} if telecom else found


def health_gorilla_id(organization: Json, now: datetime) -> str | None:
    """The location's id that Medplum keeps (``tl-...``), or None; InputError for a tenant or a laboratory."""
    known = identifiers.values_of(current(organization.get("identifier"), now), SYSTEM)
    found = enrollment.one_health_gorilla_id(known)
    if found is not None and not found.startswith("tl-"):
        text = "The Organization's Health Gorilla id is not a location's (tl-...) but a tenant's or laboratory's."
        raise InputError(text, code="not-a-location", expression=["Organization.identifier"])
    return found


def pick(candidates: Sequence[Json], location: Json) -> Json | None:
    """The location that has the same name and address, or None; ReviewNeeded for several."""
    place = _comparable(location, location["address"][0])
    same = [
        found
        for found in candidates
        if any(_comparable(found, address) == place for address in found.get("address", ()))
    ]
    if len(same) > 1:
        text = "Health Gorilla has several locations of this name and address in the tenant."
        raise ReviewNeeded(text, code="location-ambiguous")
    return same[0] if same else None


def plan(location: Json, found: Json | None) -> Decision:
    """The plan: set every element that Medplum has, and keep all others."""
    if found is None:
        return Decision("created", location, differences=["Organization: create"])
    if bare_id(str(found.get("partOf", {}).get("reference") or "")) != bare_id(location["partOf"]["reference"]):
        text = "The location belongs to another tenant in Health Gorilla; a location cannot move."
        raise ReviewNeeded(text, code="location-of-other-tenant")
    different = [
        key for key, value in location.items() if key not in {"partOf", "type"} and not _covers(found.get(key), value)
    ]
    types = [(coding.get("system"), coding.get("code")) for coding in codings(found.get("type"))]
    if (TYPE["system"], TYPE["code"]) not in types:
        different.append("type")
    if not different:
        return Decision("unchanged", found=found)
    changed = {**found, **{key: location[key] for key in different}}
    changed["meta"] = {key: found["meta"][key] for key in ("versionId", "profile") if key in found.get("meta", {})}
    changed.pop("text", None)
    return Decision("updated", changed, found, [f"Organization.{key}: replaced" for key in different])


def write_back(organization: Json, location_id: str, now: datetime) -> Json:
    """The Organization with the location's id; itself where it has one in force."""
    if identifiers.values_of(current(organization.get("identifier"), now), SYSTEM):
        return organization
    return {
        **organization,
        "identifier": [*organization.get("identifier", []), identifiers.health_gorilla(location_id)],
    }


def require_location_id(location_id: str | None) -> str:
    """The id; ReviewNeeded where Health Gorilla gave none that a location can have."""
    if not location_id or not location_id.startswith("tl-"):
        text = "Health Gorilla's answer has no id (tl-...) for the new location."
        raise ReviewNeeded(text, code="location-id-missing")
    return location_id


def answer(decision: Decision, location_id: str | None, *, preview: bool = False) -> Json:
    """One Parameters resource: ``action``, ``healthGorillaId``, ``outcome``, and in a preview what would be sent."""
    return answers.answer(
        decision.action,
        "location",
        [parameters.string("healthGorillaId", location_id)],
        preview=preview,
        differences=decision.differences if preview else (),
        payload=decision.payload if preview else None,
    )


def _address(organization: Json, now: datetime) -> Json:
    """The address to send: that of use work, else the first one in force; with a country."""
    found = current(organization.get("address"), now)
    chosen: Json = min(found, key=lambda address: bool(address.get("use") != "work"), default={})
    missing = [key for key in ("line", "city", "state", "postalCode") if not chosen.get(key)]
    if missing:
        text = f"The Organization's address needs {', '.join(missing)}."
        raise InputError(
            text, code="location-address-missing", expression=[f"Organization.address.{key}" for key in missing]
        )
    kept = {key: chosen[key] for key in _ADDRESS if chosen.get(key)}
    return {"use": "work", **kept, "country": chosen.get("country") or DEFAULT_COUNTRY}


def _comparable(location: Json, address: Json) -> tuple[str, ...]:
    lines = " ".join(str(line) for line in address.get("line") or ())
    return tuple(map(folded, (location.get("name"), lines, address.get("city"), address.get("postalCode"))))


def _covers(known: Any, requested: Any) -> bool:
    """Whether Health Gorilla has all that is requested; it adds texts and ids of its own, which do not count.

    The lines of an address are one text: none may be missing, and none left over from before.
    """
    if isinstance(requested, dict):
        return isinstance(known, dict) and all(_covers(known.get(key), value) for key, value in requested.items())
    if isinstance(requested, list) and not all(isinstance(line, str) for line in requested):
        return isinstance(known, list) and all(any(_covers(item, value) for item in known) for value in requested)
    return bool(known == requested)
