"""The practitioner role of a clinical account: from the call, else from the PractitionerRoles of Medplum, else doctor.

Health Gorilla takes one code of FHIR's code system practitioner-role beside the administrative role. Medplum keeps such
a code, or a profession as a NUCC provider taxonomy code (US Core), in PractitionerRole.code or .specialty.
https://terminology.hl7.org/CodeSystem-practitioner-role.html and https://taxonomy.nucc.org
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from bot_layer.fhir import periods
from bot_layer.fhir.json import Json, codings
from bot_layer.health_gorilla.rules import settings as hg

DEFAULT: Final = "doctor"
# In the order in which one is chosen where a person has several.
DISPLAYS: Final = {
    "doctor": "Doctor",
    "nurse": "Nurse",
    "pharmacist": "Pharmacist",
    "dentist": "Dentist",
    "physio": "Physiotherapist",
    "speech": "Speech therapist",
    "researcher": "Researcher",
    "teacher": "Teacher/educator",
    "ict": "ICT professional",
}
_SYSTEMS: Final = frozenset({hg.PRACTITIONER_ROLE, "http://terminology.hl7.org/CodeSystem/practitioner-role"})
_NUCC_SYSTEMS: Final = frozenset(
    {"http://nucc.org/provider-taxonomy", "http://nucc.org/provider-taxonomy/", "urn:oid:2.16.840.1.113883.6.101"}
)
# The first characters of a taxonomy code are its grouping and classification. A physician assistant (363A) and others
# without a code of their own in practitioner-role are left to the caller or the default.
_NUCC: Final = {
    "20": "doctor",
    "163W": "nurse",
    "164": "nurse",
    "363L": "nurse",
    "364S": "nurse",
    "3675": "nurse",
    "367A": "nurse",
    "1835": "pharmacist",
    "1223": "dentist",
    "2251": "physio",
    "235Z": "speech",
}


def coding(code: str) -> Json:
    """The coding of a practitioner role as Health Gorilla's samples write it."""
    return {"system": hg.PRACTITIONER_ROLE, "code": code, "display": DISPLAYS.get(code, code)}


def of_roles(roles: Iterable[Json], now: datetime) -> str | None:
    """The practitioner role in the PractitionerRoles that are active now; None where none of their codes is known.

    A code of practitioner-role comes before one that is translated from a profession.
    """
    active = [role for role in periods.current(list(roles), now) if role.get("active") is not False]
    coded = [each for role in active for name in ("code", "specialty") for each in codings(role.get(name))]
    found = [(each.get("system"), str(each["code"])) for each in coded if each.get("code")]
    said = [code for system, code in found if system in _SYSTEMS]
    professions = [code for system, code in found if system in _NUCC_SYSTEMS]
    translated = [role for prefix, role in _NUCC.items() if any(code.startswith(prefix) for code in professions)]
    return _first(said) or _first(translated)


def replaced(role: Json, code: str | None) -> Json:
    """The PractitionerRole of an account with this practitioner role; itself where it has it or none is given."""
    known = codings(role.get("code"))
    if code is None or any(each.get("system") in _SYSTEMS and each.get("code") == code for each in known):
        return role
    others = [each for each in known if each.get("system") not in _SYSTEMS]
    return {**role, "code": [{"coding": [*others, coding(code)]}]}


def _first(codes: Sequence[str]) -> str | None:
    order = list(DISPLAYS)
    return min(codes, key=lambda code: order.index(code) if code in order else -1, default=None)
