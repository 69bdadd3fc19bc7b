"""A PID segment as a FHIR Patient. PID-19, the social security number, is neither read nor sent.

https://build.fhir.org/ig/HL7/v2-to-fhir/ConceptMap-segment-pid-to-patient.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import date
from typing import Final

from bot_layer.errors import InputError
from bot_layer.fhir.identifiers import V2_0203
from bot_layer.fhir.json import Json
from bot_layer.patient_registration.adt.hl7v2 import Repetition, Segment

SSN_TYPE: Final = "SS"
SSN_SYSTEMS: Final = frozenset({"http://hl7.org/fhir/sid/us-ssn", "urn:oid:2.16.840.1.113883.4.1"})
# HL7 tables 0001, 0200, 0190 and 0201 with 0202, as far as FHIR has a word for them.
GENDERS: Final = {"F": "female", "M": "male", "O": "other", "A": "other", "N": "other", "U": "unknown"}
NAME_USES: Final = {
    "L": "official",
    "D": "usual",
    "M": "maiden",
    "N": "nickname",
    "A": "nickname",
    "S": "anonymous",
    "T": "temp",
}
_PAST_NAMES: Final = frozenset({"B", "BAD", "NAV", "R", "NOUSE"})
ADDRESS_USES: Final = {
    "H": "home",
    "P": "home",
    "L": "home",
    "RH": "home",
    "M": "home",
    "B": "work",
    "O": "work",
    "C": "temp",
    "V": "temp",
    "BI": "billing",
}
_NOT_REACHED_AT: Final = frozenset({"BA", "BDL", "BR", "F", "N"})
_EMAIL_EQUIPMENT: Final = frozenset({"INTERNET", "X.400"})
_SYSTEMS: Final = {"FX": "fax", "BP": "pager", "MD": "other", "TDD": "other", "TTY": "other"}
_USES: Final = {"PRN": "home", "ORN": "home", "VHN": "home", "WPN": "work", "PRS": "mobile"}
_DATE: Final = re.compile(r"(\d{4})(?:(\d{2})(?:(\d{2})(?:\d{2,6}(?:\.\d{1,4})?)?)?)?(?:[+-]\d{4})?")


def patient(segment: Segment, authorities: Mapping[str, str]) -> Json:
    """The elements that the segment states, and no others."""
    stated: Json = {
        "resourceType": "Patient",
        "identifier": identifiers(segment, 3, authorities),
        "name": _saying(_name(value) for value in segment.repetitions(5) if value.text(7) not in _PAST_NAMES),
        "birthDate": fhir_date(segment.text(7), "PID-7"),
        "gender": _gender(segment.text(8)),
        "address": _saying(
            _address(value) for value in segment.repetitions(11) if value.text(7) not in _NOT_REACHED_AT
        ),
        "telecom": [*_points(segment, 13, "home"), *_points(segment, 14, "work")],
        **_deceased(segment),
    }
    return {name: value for name, value in stated.items() if value or value is False}


def removed(segment: Segment) -> frozenset[str]:
    """The elements that the segment asks to remove, by HL7's null."""
    fields = {5: "name", 7: "birthDate", 8: "gender", 11: "address", 13: "telecom-home", 14: "telecom-work"}
    gone = {element for number, element in fields.items() if segment.is_null(number)}
    if segment.is_null(29) or segment.is_null(30):
        gone |= {"deceasedBoolean", "deceasedDateTime"}
    return frozenset(gone)


def identifiers(segment: Segment, number: int, authorities: Mapping[str, str]) -> list[Json]:
    """The identifiers of a CX list whose assigning authority has a system; an InputError where none has."""
    found = [_identifier(value, authorities) for value in segment.repetitions(number) if value.text(5) != SSN_TYPE]
    known = [
        identifier for identifier in found if identifier["system"] not in (None, *SSN_SYSTEMS) and identifier["value"]
    ]
    if not known:
        raise InputError(
            "No identifier has an assigning authority that is known here: map it in ADT_ASSIGNING_AUTHORITIES.",
            code="unknown-authority",
            expression=[f"{segment.name}-{number}"],
        )
    return known


def type_code(identifier: Json) -> str:
    """The HL7 type of an identifier (table 0203), or ""."""
    for coding in identifier.get("type", {}).get("coding", []):
        if coding.get("code"):
            return str(coding["code"])
    return ""


def fhir_date(text: str, where: str) -> str:
    """The date of a time stamp, as precise as it is; "" where there is none."""
    if not text:
        return ""
    match = _DATE.fullmatch(text)
    if match is None:
        raise InputError("A date is not written as YYYYMMDD.", code="data-type", expression=[where])
    parts = [part for part in match.groups() if part]
    try:
        date(*map(int, (*parts, "1", "1")[:3]))
    except ValueError:
        raise InputError("A date does not exist in the calendar.", code="data-type", expression=[where]) from None
    return "-".join(parts)


def _saying(parts: Iterable[Json]) -> list[Json]:
    """Those that say more than their kind, which some senders write where there is nothing to say."""
    return [part for part in parts if part.keys() - {"use", "type"}]


def _identifier(value: Repetition, authorities: Mapping[str, str]) -> Json:
    identifier: Json = {"system": _system(value, authorities), "value": value.text(1)}
    if value.text(5):
        identifier["type"] = {"coding": [{"system": V2_0203, "code": value.text(5)}]}
    return identifier


def _system(value: Repetition, authorities: Mapping[str, str]) -> str | None:
    """The system of a CX: as mapped, else what its universal id says by itself (an OID, a UUID, a URI)."""
    namespace, universal, kind = (value.text(4, part) for part in (1, 2, 3))
    for name in (namespace, universal):
        if name and name in authorities:
            return authorities[name]
    if universal and kind in ("ISO", "UUID"):
        return f"urn:{'oid' if kind == 'ISO' else 'uuid'}:{universal}"
    return universal if universal and kind in ("URI", "URL") else None


def _name(value: Repetition) -> Json:
    given = [value.text(2), *value.text(3).split()]
    parts: Json = {
        "use": NAME_USES.get(value.text(7) or "L", "usual"),
        "family": value.text(1),
        "given": [text for text in given if text],
        "prefix": [value.text(5)] if value.text(5) else [],
        "suffix": [text for text in (value.text(4), value.text(6)) if text],
    }
    return {name: part for name, part in parts.items() if part}


def _gender(code: str) -> str:
    if code and code.upper() not in GENDERS:
        raise InputError("PID-8 is no code of HL7 table 0001.", code="table-value", expression=["PID-8"])
    return GENDERS.get(code.upper(), "")


def _address(value: Repetition) -> Json:
    street = value.text(1) or f"{value.text(1, 3)} {value.text(1, 2)}".strip()
    parts: Json = {
        "use": ADDRESS_USES.get(value.text(7), "home"),
        "type": "postal" if value.text(7) == "M" else "",
        "line": [text for text in (street, value.text(2)) if text],
        "city": value.text(3),
        "district": value.text(9),
        "state": value.text(4),
        "postalCode": value.text(5),
        "country": value.text(6),
    }
    return {name: part for name, part in parts.items() if part}


def _points(segment: Segment, number: int, default_use: str) -> list[Json]:
    points = (_point(value, default_use) for value in segment.repetitions(number))
    return [point for point in points if point["value"]]


def _point(value: Repetition, default_use: str) -> Json:
    equipment = value.text(3).upper()
    if value.text(4) and (value.text(2) == "NET" or equipment in _EMAIL_EQUIPMENT or not _number(value)):
        return {"system": "email", "value": value.text(4), "use": default_use}
    if value.text(2) == "NET" or equipment in _EMAIL_EQUIPMENT:
        return {"system": "email", "value": value.text(1), "use": default_use}
    use = "mobile" if equipment == "CP" and default_use == "home" else _USES.get(value.text(2), default_use)
    return {"system": _SYSTEMS.get(equipment, "phone"), "value": _number(value), "use": use}


def _number(value: Repetition) -> str:
    """The number as it was written whole (XTN.1, XTN.12), else put together from its parts."""
    whole = value.text(1) or value.text(12)
    if whole:
        return whole
    country = f"+{value.text(5).lstrip('+')}" if value.text(5) else ""
    extension = f"x{value.text(8)}" if value.text(8) else ""
    return " ".join(part for part in (country, value.text(6), value.text(7), extension) if part)


def _deceased(segment: Segment) -> Json:
    died = fhir_date(segment.text(29), "PID-29")
    if died:
        return {"deceasedDateTime": died}
    return {"deceasedBoolean": segment.text(30) == "Y"} if segment.text(30) in ("Y", "N") else {}
