"""An HL7 telephone number or e-mail address (XTN) as FHIR ContactPoints; one XTN may hold one of each.

https://build.fhir.org/ig/HL7/v2-to-fhir/ConceptMap-datatype-xtn-to-contactpoint.html, tables 0201 and 0202
"""

from __future__ import annotations

from typing import Final

from bot_layer.fhir.json import Json
from bot_layer.patient_registration.adt.hl7v2 import Repetition

_EMAIL_EQUIPMENT: Final = frozenset({"INTERNET", "X.400"})
_SYSTEMS: Final = {"FX": "fax", "BP": "pager", "MD": "other", "TDD": "other", "TTY": "other"}
_USES: Final = {"PRN": "home", "ORN": "home", "VHN": "home", "WPN": "work", "PRS": "mobile"}


def points(value: Repetition, default_use: str) -> list[Json]:
    """The phone and the e-mail address of an XTN; none where it holds neither."""
    use, equipment = value.text(2).upper(), value.text(3).upper()
    number, email = _number(value), value.text(4)
    if not email and (use == "NET" or equipment in _EMAIL_EQUIPMENT or "@" in number):
        number, email = "", number
    elif email and "@" not in email and not number and equipment not in _EMAIL_EQUIPMENT and use != "NET":
        number, email = email, ""
    found: list[Json] = []
    if number:
        is_mobile = equipment == "CP" and default_use == "home"
        system = _SYSTEMS.get(equipment, "phone")
        found.append({"system": system, "value": number, "use": "mobile" if is_mobile else _USES.get(use, default_use)})
    return [*found, {"system": "email", "value": email, "use": default_use}] if email else found


def _number(value: Repetition) -> str:
    """The number as it was written whole (XTN.1, XTN.12), else put together from its parts."""
    whole = value.text(1) or value.text(12)
    if whole:
        return whole
    country = f"+{value.text(5).lstrip('+')}" if value.text(5) else ""
    extension = f"x{value.text(8)}" if value.text(8) else ""
    local = " ".join(part for part in (country, value.text(6), value.text(7)) if part)
    return f"{local} {extension}".strip() if local else ""
