"""A PID segment as a FHIR Patient, with PD1 and ARV as far as they restrict disclosure.

PID-19, the social security number, is neither read nor sent.
https://build.fhir.org/ig/HL7/v2-to-fhir/ConceptMap-segment-pid-to-patient.html
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from bot_layer.errors import InputError
from bot_layer.fhir.json import Json, codings
from bot_layer.patient_registration.adt import datatypes
from bot_layer.patient_registration.adt.hl7v2 import Segment

# HL7 table 0001, as far as FHIR has a word for it.
_GENDERS: Final = {"F": "female", "M": "male", "O": "other", "A": "other", "N": "other", "U": "unknown"}
_YES_OR_NO: Final = {"Y": True, "N": False}
# Table 0717: nothing is restricted, and the patient opts in; every other value restricts something.
_OPEN_RESTRICTIONS: Final = frozenset({"NO", "OI"})


def patient(segment: Segment, authorities: Mapping[str, str]) -> Json:
    """The elements that the segment states, and no others."""
    stated: Json = {
        "resourceType": "Patient",
        "identifier": identifiers(segment, 3, authorities),
        "name": list(filter(None, map(datatypes.name, segment.repetitions(5)))),
        "birthDate": datatypes.fhir_date(segment.text(7), "PID-7"),
        "gender": _gender(segment.text(8).upper()),
        "address": list(filter(None, map(datatypes.address, segment.repetitions(11)))),
        "telecom": [
            *(point for value in segment.repetitions(13) for point in datatypes.points(value, "home")),
            *(point for value in segment.repetitions(14) for point in datatypes.points(value, "work")),
        ],
        **_multiple_birth(segment),
        **_deceased(segment),
    }
    return {name: value for name, value in stated.items() if value or value is False}


def removed(segment: Segment) -> frozenset[str]:
    """The elements that the segment asks to remove, by HL7's null. The name (PID-5) is required, so it stays."""
    fields = {7: "birthDate", 8: "gender", 11: "address", 13: "telecom-home", 14: "telecom-work"}
    found = {element for number, element in fields.items() if segment.is_null(number)}
    if segment.is_null(29) or segment.is_null(30):
        found |= {"deceasedBoolean", "deceasedDateTime"}
    return frozenset(found)


def identifiers(segment: Segment, number: int, authorities: Mapping[str, str]) -> list[Json]:
    """The identifiers of a CX list whose assigning authority has a system; an InputError where none has.

    Social security numbers are left out.
    """
    found = [datatypes.identifier(value, authorities) for value in segment.repetitions(number)]
    known = [identifier for identifier in found if identifier is not None]
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
    return next((str(coding["code"]) for coding in codings(identifier.get("type")) if coding.get("code")), "")


def _gender(code: str) -> str:
    if code and code not in _GENDERS:
        raise InputError("PID-8 is not a code of HL7 table 0001.", code="table-value", expression=["PID-8"])
    return _GENDERS.get(code, "")


def _multiple_birth(segment: Segment) -> Json:
    """Whether the patient is a twin or the like (PID-24), or the order of birth (PID-25), which says both."""
    is_multiple, order = segment.text(24), segment.text(25)
    if order.isascii() and order.isdigit() and 0 < int(order[:3]) < 20:
        return {"multipleBirthInteger": int(order[:3])}
    return {"multipleBirthBoolean": _YES_OR_NO[is_multiple]} if is_multiple in _YES_OR_NO else {}


def _deceased(segment: Segment) -> Json:
    died, is_deceased = datatypes.fhir_date(segment.text(29), "PID-29"), segment.text(30)
    if died:
        return {"deceasedDateTime": died}
    return {"deceasedBoolean": _YES_OR_NO[is_deceased]} if is_deceased in _YES_OR_NO else {}
