"""Identifiers: read, recognized, compared by key, and merged without losing any.

An account number (AN) is a physician's number at a laboratory, a provider number (PRN) the UUID for single sign-on.
Health Gorilla's documents mark both sometimes by a v2-0203 coding and sometimes by ``type.text`` alone, so both are
read and both are written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NewType

from bot_layer.fhir.json import Json, objects

HEALTH_GORILLA_SYSTEM = "https://www.healthgorilla.com"
NPI_SYSTEM = "http://hl7.org/fhir/sid/us-npi"
V2_0203 = "http://terminology.hl7.org/CodeSystem/v2-0203"
V2_0203_SYSTEMS = frozenset({V2_0203, "http://hl7.org/fhir/v2/0203", "urn:oid:2.16.840.1.113883.18.108"})
DISPLAYS = {"AN": "Account number", "PRN": "Provider Number", "NPI": "National provider identifier"}
_KINDS_BY_TEXT = {
    **{text.casefold(): code for code, text in DISPLAYS.items()},
    **dict.fromkeys(
        ("npi", "npi number", "npi no", "individual npi", "national provider identifier npi", "national provider id"),
        "NPI",
    ),
}
# C-CDA imports leave the OID. https://terminology.hl7.org/NamingSystem-npi.html
_NPI_SYSTEMS = frozenset({"hl7.org/fhir/sid/us-npi", "2.16.840.1.113883.4.6", "nppes.cms.hhs.gov"})
_SCHEME = re.compile(r"(?:https?://(?:www\.)?|(?:urn:)?oid:)", re.IGNORECASE)

IdentifierKey = NewType("IdentifierKey", tuple[str, str, str, str])


def kind(identifier: Json) -> str:
    """``AN``, ``PRN``, ``NPI`` or another v2-0203 code, by system, by any coding, or by text; empty if none is known.

    An NPI's system comes first: some records type it as a provider number.
    """
    if is_npi_system(identifier.get("system")):
        return "NPI"
    concept = identifier.get("type")
    if not isinstance(concept, dict):
        return ""
    codings = objects(concept.get("coding"))
    coded = [str(coding["code"]).upper() for coding in codings if _is_kind(coding)]
    if coded:
        return next((code for code in coded if code in DISPLAYS), coded[0])
    texts = [
        each for each in (concept.get("text"), *(coding.get("display") for coding in codings)) if isinstance(each, str)
    ]
    named = (_KINDS_BY_TEXT.get(" ".join(re.sub(r"[\W_]+", " ", each).casefold().split())) for each in texts)
    return next(filter(None, named), "")


def is_npi_system(system: object) -> bool:
    """Whether a system is one of the two registered for NPIs, in the spellings that occur."""
    return isinstance(system, str) and _SCHEME.sub("", system.strip().rstrip("/"), count=1).casefold() in _NPI_SYSTEMS


def key(identifier: Json) -> IdentifierKey | None:
    """What makes two identifiers the same, or None without a value: then it is like no other.

    For AN and PRN that is the assigner and the value, for the rest the system, the assigner and the value; an NPI is
    its digits. An assigner is its id, in whatever form the reference is written: relative, absolute, or of a version.
    """
    value = identifier.get("value")
    if not isinstance(value, str) or not value.strip():
        return None
    named = kind(identifier)
    if named == "NPI":
        return IdentifierKey((named, NPI_SYSTEM, "", value.strip()))
    system = "" if named in {"AN", "PRN"} else str(identifier.get("system") or "")
    organization = assigner(identifier).partition("/_history/")[0].rpartition("/")[2]
    return IdentifierKey((named, system, organization, value.strip()))


def assigner(identifier: Json) -> str:
    """The reference of the organization that gave the identifier; empty where it is unknown."""
    given = identifier.get("assigner")
    return str(given.get("reference") or "") if isinstance(given, dict) else ""


def merge(target: Sequence[Json], source: Iterable[Json]) -> list[Json]:
    """The target, in its order, then what only the source has. Nothing of either is lost; no key occurs twice.

    Where both have a key the target's identifier stays, and gains only elements that it lacks entirely. Identifiers
    without a value are never collapsed: of each there are as many as in the one of the two that has more.
    """
    merged: list[Json] = []
    places: dict[IdentifierKey, int] = {}
    valueless: list[Json] = [identifier for identifier in target if key(identifier) is None]
    for place, identifier in enumerate((*target, *source)):
        found = key(identifier)
        if found is None:
            if place >= len(target) and identifier in valueless:
                valueless.remove(identifier)
            else:
                merged.append(identifier)
        elif found in places:
            merged[places[found]] = {**identifier, **merged[places[found]]}
        else:
            places[found] = len(merged)
            merged.append(identifier)
    return merged


def search_token(system: str, value: str) -> str:
    """``system|value`` as a search takes it: a comma would begin another value, and a backslash is a sign of its own.

    https://hl7.org/fhir/R4/search.html#escaping
    """
    return "|".join(re.sub(r"([\\,|$])", r"\\\1", part) for part in (system, value))


def values_of(identifiers: Iterable[Json], system: str) -> list[str]:
    """The different values under a system, in order; identifiers of use ``old`` are left out, and blank ones."""
    return _current(identifier for identifier in identifiers if identifier.get("system") == system)


def npis(identifiers: Sequence[Json]) -> list[str]:
    """The different NPIs of a practitioner, marked by system or by type."""
    return _current(identifier for identifier in identifiers if kind(identifier) == "NPI")


def is_npi(value: str) -> bool:
    """Ten digits whose last is right: Luhn's formula over the card prefix 80840 and the number.

    https://www.cms.gov/Regulations-and-Guidance/Administrative-Simplification/NationalProvIdentStand (ISO/IEC 7812)
    """
    return len(value) == 10 and value.isascii() and value.isdigit() and _luhn(f"80840{value}") == 0


def npi(value: str) -> Json:
    """The identifier of an NPI as Health Gorilla's examples write it."""
    return {"type": typed("NPI"), "system": NPI_SYSTEM, "value": value}


def account_number(laboratory: str, value: str) -> Json:
    """The identifier of an account number at ``Organization/f-...``."""
    return {"type": typed("AN"), "assigner": {"reference": laboratory}, "value": value}


def provider_number(facility: str, value: str) -> Json:
    """The identifier for single sign-on: the user's UUID at ``Organization/f-...``."""
    return {"type": typed("PRN"), "assigner": {"reference": facility}, "value": value}


def typed(code: str) -> Json:
    """The CodeableConcept of an identifier type, with coding and text."""
    return {"coding": [{"system": V2_0203, "code": code, "display": DISPLAYS[code]}], "text": DISPLAYS[code]}


def health_gorilla(value: str) -> Json:
    """The identifier under which a Medplum resource keeps its Health Gorilla id."""
    return {"system": HEALTH_GORILLA_SYSTEM, "value": value}


def _is_kind(coding: Json) -> bool:
    """A code of v2-0203; of the codes without a system only NPI is unmistakable."""
    code, system = coding.get("code"), coding.get("system")
    return bool(code) and (system in V2_0203_SYSTEMS or (not system and str(code).upper() == "NPI"))


def _current(identifiers: Iterable[Json]) -> list[str]:
    values = (str(found.get("value") or "").strip() for found in identifiers if found.get("use") != "old")
    return list(dict.fromkeys(filter(None, values)))


def _luhn(digits: str) -> int:
    doubled = (int(digit) * (2 - place % 2) for place, digit in enumerate(reversed(digits), start=1))
    # Every second digit from the right counts twice, and the digits of the product are added.
    return sum(number - 9 if number > 9 else number for number in doubled) % 10
