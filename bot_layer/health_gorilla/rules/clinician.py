"""A Practitioner of Medplum, read once: what the rules need to make or change an account.

Identifiers that are not in force (use ``old``, or outside their period) are left out here, so no rule sees them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from bot_layer.fhir import identifiers, periods
from bot_layer.fhir.json import Json, as_object, objects
from bot_layer.health_gorilla.rules import accounts, names
from bot_layer.health_gorilla.rules import settings as hg
from bot_layer.health_gorilla.rules.names import PersonName
from bot_layer.health_gorilla.rules.settings import SYSTEM

LOCATION_EXTENSION: Final = "https://medplum.com/integrations/health-gorilla/practitioner-location"
LAB_ACCOUNT_EXTENSION: Final = "https://medplum.com/integrations/health-gorilla/lab-org-account"


@dataclass(frozen=True)
class AccountNumber:
    """An account number (AN) at a laboratory, as Medplum keeps it.

    ``assigner`` is the laboratory's reference, ``laboratory`` its Health Gorilla id (``f-...``) where the identifier
    itself says it. ``where`` is the FHIRPath of the element.
    """

    value: str = field(repr=False)
    where: str
    is_in_force: bool = True
    assigner: str = ""
    laboratory: str | None = None

    @classmethod
    def read(cls, identifier: Json, where: str, now: datetime, contained: Sequence[Json] = ()) -> AccountNumber:
        """The number in an Identifier. Its assigner may be a contained Organization or a logical reference."""
        reference = identifiers.assigner(identifier)
        known = [as_object(as_object(identifier.get("assigner")).get("identifier"))]
        for organization in contained:
            if reference == f"#{organization.get('id')}":
                known += objects(organization.get("identifier"))
        own = (value for value in identifiers.values_of(known, SYSTEM) if value.startswith("f-"))
        value = str(identifier.get("value") or "").strip()
        return cls(value, where, periods.in_force(identifier, now), reference, next(own, None))


@dataclass(frozen=True)
class Clinician:
    """What a Practitioner says, with or without an NPI. ``sign_on`` is the user's UUID for single sign-on.

    ``numbers`` are the account numbers of the person and, from the extension, of the practice. ``locations`` are the
    references of the practice locations; a reference that cannot be resolved stays in the list, so that it is refused.
    """

    id: str
    is_active: bool = True
    names: tuple[PersonName, ...] = field(default=(), repr=False)
    npis: tuple[str, ...] = field(default=(), repr=False)
    health_gorilla_ids: tuple[str, ...] = field(default=(), repr=False)
    login: str | None = field(default=None, repr=False)
    emails: tuple[str, ...] = field(default=(), repr=False)
    numbers: tuple[AccountNumber, ...] = field(default=(), repr=False)
    locations: tuple[str, ...] = ()
    sign_on: str = field(default="", repr=False)
    security_role: str | None = None

    @classmethod
    def read(cls, practitioner: Json, now: datetime) -> Clinician:
        """The Practitioner as a value. Its references to Medplum's own server are expected as ``Type/id``."""
        valid = periods.current(practitioner.get("identifier"), now)
        own_id = str(practitioner.get("id") or "")
        prns = (each for each in valid if identifiers.kind(each) == "PRN" and not each.get("assigner"))
        own_prns = (str(each.get("value") or "").strip() for each in prns)
        return cls(
            id=own_id,
            is_active=practitioner.get("active") is not False,
            names=names.read(practitioner.get("name"), now),
            npis=tuple(identifiers.npis(valid)),
            health_gorilla_ids=tuple(identifiers.values_of(valid, SYSTEM)),
            login=accounts.login_of(practitioner),
            emails=tuple(accounts.emails_of({"telecom": periods.current(practitioner.get("telecom"), now)})),
            numbers=(*own_numbers(practitioner, "Practitioner", now), *_practice_numbers(practitioner, now)),
            locations=tuple(_locations(practitioner)),
            # The practitioner's own PRN that no organization gave.
            sign_on=next((number for number in own_prns if number), own_id),
            security_role=security_role_of(practitioner),
        )

    def lacks(self, health_gorilla_id: str | None, login: str | None) -> bool:
        """Whether Medplum does not keep this id or this login yet."""
        return bool((health_gorilla_id and not self.health_gorilla_ids) or (login and not self.login))


def own_numbers(resource: Json, kind: str, now: datetime) -> list[AccountNumber]:
    """The account numbers among the identifiers of a Practitioner or of a location's Organization."""
    contained = objects(resource.get("contained"))
    return [
        AccountNumber.read(identifier, f"{kind}.identifier[{place}]", now, contained)
        for place, identifier in enumerate(objects(resource.get("identifier")))
        if identifiers.kind(identifier) == "AN"
    ]


def security_role_of(resource: Json) -> str | None:
    """The security role in the extension, in either of its spellings, on a PractitionerRole or a Practitioner."""
    extensions = objects(resource.get("extension"))
    found = [each.get("valueCodeableConcept") for each in extensions if each.get("url") in hg.SECURITY_ROLE_EXTENSIONS]
    return accounts.code_of(found, hg.SECURITY_ROLE)


def reference_of(value: Any) -> str:
    """``Type/id`` of a Reference or of a whole resource; empty for anything else."""
    if not isinstance(value, dict):
        return ""
    if "resourceType" in value:
        return f"{value['resourceType']}/{value.get('id', '')}"
    return str(value.get("reference") or "")


def _practice_numbers(practitioner: Json, now: datetime) -> list[AccountNumber]:
    """The practice's account numbers on the practitioner.

    The extension is complex, keyed by laboratory: whatever its parts are called, the one with a reference is the
    laboratory, and the one with text the number.
    """
    return [
        AccountNumber.read(_number(objects(extension.get("extension"))), "Practitioner.extension", now)
        for extension in objects(practitioner.get("extension"))
        if extension.get("url") == LAB_ACCOUNT_EXTENSION
    ]


def _number(parts: Sequence[Json]) -> Json:
    found: Json = {"type": identifiers.typed("AN")}
    for part in parts:
        if isinstance(part.get("valueReference"), dict):
            found["assigner"] = part["valueReference"]
        elif isinstance(part.get("valueIdentifier"), dict):
            known = part["valueIdentifier"]
            found |= {key: known[key] for key in ("use", "value", "period", "assigner") if key in known}
        elif isinstance(part.get("valueString"), str):
            found["value"] = part["valueString"]
    return found


def _locations(practitioner: Json) -> list[str]:
    given = (
        found.get("valueReference")
        for found in objects(practitioner.get("extension"))
        if found.get("url") == LOCATION_EXTENSION
    )
    return list(dict.fromkeys(_location(value) for value in given if isinstance(value, dict)))


def _location(value: Json) -> str:
    """A Reference's text, or Health Gorilla's own if it names the location only by its id."""
    known = identifiers.values_of([as_object(value.get("identifier"))], SYSTEM)
    return reference_of(value) or (f"Organization/{known[0]}" if known else "")
