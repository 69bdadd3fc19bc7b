"""A PID segment as a FHIR Patient, with PD1 and ARV as far as they restrict disclosure.

PID-19, the social security number, is neither read nor sent.
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
from bot_layer.fhir.social_security import is_ssn, is_ssn_authority
from bot_layer.patient_registration.adt.address import address, period
from bot_layer.patient_registration.adt.hl7v2 import Repetition, Segment
from bot_layer.patient_registration.adt.telecom import points

# HL7 tables 0001 and 0200, as far as FHIR has a word for them.
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
_DATE: Final = re.compile(r"(\d{4})(?:(\d{2})(?:(\d{2})(?:\d{2,6}(?:\.\d{1,4})?)?)?)?(?:[+-]\d{4})?", re.ASCII)
_OID: Final = re.compile(r"[0-2](?:\.\d+){3,}", re.ASCII)
# Table 0717: nothing is restricted, and the patient opts in; every other value restricts something.
_OPEN_RESTRICTIONS: Final = frozenset({"NO", "OI"})


def patient(segment: Segment, authorities: Mapping[str, str]) -> Json:
    """The elements that the segment states, and no others."""
    stated: Json = {
        "resourceType": "Patient",
        "identifier": identifiers(segment, 3, authorities),
        "name": _saying(_name(value) for value in segment.repetitions(5) if value.text(7).upper() not in _PAST_NAMES),
        "birthDate": fhir_date(segment.text(7), "PID-7"),
        "gender": _gender(segment.text(8)),
        "address": _saying(address(value) for value in segment.repetitions(11)),
        "telecom": [
            *(point for value in segment.repetitions(13) for point in points(value, "home")),
            *(point for value in segment.repetitions(14) for point in points(value, "work")),
        ],
        **_multiple_birth(segment),
        **_deceased(segment),
    }
    return {name: value for name, value in stated.items() if value or value is False}


def removed(segment: Segment) -> frozenset[str]:
    """The elements that the segment asks to remove, by HL7's null. The name (PID-5) is required, so it stays."""
    fields = {7: "birthDate", 8: "gender", 11: "address", 13: "telecom-home", 14: "telecom-work"}
    gone = {element for number, element in fields.items() if segment.is_null(number)}
    if segment.is_null(29) or segment.is_null(30):
        gone |= {"deceasedBoolean", "deceasedDateTime"}
    return frozenset(gone)


def identifiers(segment: Segment, number: int, authorities: Mapping[str, str]) -> list[Json]:
    """The identifiers of a CX list whose assigning authority has a system; an InputError where none has.

    Social security numbers are left out.
    """
    found = [_identifier(value, authorities) for value in segment.repetitions(number)]
    known = [identifier for identifier in found if identifier["system"] and identifier["value"]]
    if not known:
        raise InputError(
            "No identifier has a known assigning authority: map it in ADT_ASSIGNING_AUTHORITIES.",
            code="unknown-authority",
            expression=[f"{segment.name}-{number}"],
        )
    return known


def is_protected(segments: Iterable[Segment]) -> bool | None:
    """Whether PD1-12 or an ARV segment keeps the patient out of networks; None where neither says anything.

    PD1-12 is the protection indicator (Y or N), ARV its successor from version 2.6 on. A null takes it back. An ARV
    after PV1 is about the visit.
    """
    said: list[bool] = []
    is_visit = False
    for segment in segments:
        is_visit = is_visit or segment.name == "PV1"
        if segment.name == "PD1" and (segment.text(12) or segment.is_null(12)):
            said.append(segment.text(12).upper() not in ("N", ""))
        if segment.name == "ARV" and not is_visit and segment.text(3) and segment.text(2).upper() != "X":
            said.append(segment.text(2).upper() != "D" and segment.text(3).upper() not in _OPEN_RESTRICTIONS)
    return any(said) if said else None


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
    return [part for part in parts if part.keys() - {"use", "type", "period"}]


def _identifier(value: Repetition, authorities: Mapping[str, str]) -> Json:
    """A CX as an Identifier; its system is None where nobody knows it, or where it is a social security number."""
    identifier: Json = {"system": _system(value, authorities), "value": value.text(1)}
    if value.text(5):
        identifier["type"] = {"coding": [{"system": V2_0203, "code": value.text(5).upper()}]}
    authority = any(is_ssn_authority(value.text(number, part)) for number in (4, 6) for part in (1, 2))
    return {**identifier, "system": None} if authority or is_ssn(identifier) else identifier


def _system(value: Repetition, authorities: Mapping[str, str]) -> str | None:
    """The system of a CX: as mapped, else what its universal id says by itself (an OID, a UUID, a URI).

    Where CX.4 is empty, the facility in CX.6 may be mapped, or the empty text.
    """
    namespace, universal, kind = (value.text(4, part) for part in (1, 2, 3))
    if not namespace and not universal:
        return authorities.get(value.text(6)) or authorities.get("")
    for name in (namespace, universal):
        if name and name in authorities:
            return authorities[name]
    if universal and (kind in ("ISO", "UUID", "GUID") or (not kind and _OID.fullmatch(universal))):
        return f"urn:uuid:{universal}" if kind in ("UUID", "GUID") else f"urn:oid:{universal}"
    return universal if universal and kind in ("URI", "URL") else None


def _name(value: Repetition) -> Json:
    given = [value.text(2), *value.text(3).split()]
    # FN.1 is the whole surname; some senders write its prefix and its own part alone.
    family = value.text(1) or f"{value.text(1, 2)} {value.text(1, 3)}".strip()
    parts: Json = {
        "use": NAME_USES.get(value.text(7).upper() or "L", "usual"),
        "family": family,
        "given": [text for text in given if text],
        "prefix": [value.text(5)] if value.text(5) else [],
        "suffix": [text for text in (value.text(4), value.text(6)) if text],
        "period": period(value, 10),
    }
    return {name: part for name, part in parts.items() if part}


def _gender(code: str) -> str:
    if code and code.upper() not in GENDERS:
        raise InputError("PID-8 is not a code of HL7 table 0001.", code="table-value", expression=["PID-8"])
    return GENDERS.get(code.upper(), "")


def _multiple_birth(segment: Segment) -> Json:
    """Whether the patient is a twin or the like (PID-24), or the order of birth (PID-25), which says both."""
    order = segment.text(25)
    if order.isascii() and order.isdigit() and 0 < int(order[:3]) < 20:
        return {"multipleBirthInteger": int(order[:3])}
    return {"multipleBirthBoolean": segment.text(24) == "Y"} if segment.text(24) in ("Y", "N") else {}


def _deceased(segment: Segment) -> Json:
    died = fhir_date(segment.text(29), "PID-29")
    if died:
        return {"deceasedDateTime": died}
    return {"deceasedBoolean": segment.text(30) == "Y"} if segment.text(30) in ("Y", "N") else {}
