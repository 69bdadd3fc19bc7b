"""An HL7 address (XAD) as a FHIR Address.

https://build.fhir.org/ig/HL7/v2-to-fhir/ConceptMap-datatype-xad-to-address.html and the maps of table 0190 to
Address.use and Address.type beside it: a mailing address is of type postal and has no use.
"""

from __future__ import annotations

import re
from typing import Final

from bot_layer.fhir.json import Json
from bot_layer.patient_registration.adt.hl7v2 import Repetition

_USES: Final = {
    "": "home",
    "H": "home",
    "P": "home",
    "L": "home",
    "RH": "home",
    "B": "work",
    "O": "work",
    "C": "temp",
    "V": "temp",
    "BI": "billing",
}
_POSTAL: Final = frozenset({"M", "SH"})
# Where somebody was born, comes from or once lived, or gets no mail: nobody is reached there.
_NOT_REACHED_AT: Final = frozenset({"BA", "BDL", "BR", "F", "N", "S", "TM"})
_DAY: Final = re.compile(r"(\d{4})(\d{2})(\d{2})", re.ASCII)


def address(value: Repetition) -> Json:
    """The Address; {} where nobody is reached there."""
    kind = value.text(7).upper()
    if kind in _NOT_REACHED_AT:
        return {}
    parts: Json = {
        "use": "" if kind in _POSTAL else _USES.get(kind, "home"),
        "type": "postal" if kind in _POSTAL else "",
        "line": [text for text in (_street(value), value.text(2)) if text],
        "city": value.text(3),
        "district": value.text(9),
        "state": value.text(4),
        "postalCode": value.text(5),
        "country": value.text(6),
        "period": period(value, 12),
    }
    return {name: part for name, part in parts.items() if part}


def _street(value: Repetition) -> str:
    """The street line: SAD.1, with the number (SAD.3) and the street's name (SAD.2) where it lacks them."""
    whole, street, number = (value.text(1, part) for part in (1, 2, 3))
    for part, text in (("street", street), ("number", number)):
        if text and not re.search(rf"(?<!\w){re.escape(text)}(?!\w)", whole, re.IGNORECASE):
            whole = f"{whole} {text}" if part == "street" else f"{text} {whole}"
    return " ".join(whole.split())


def period(value: Repetition, validity: int) -> Json:
    """From the effective date to the expiration date, as far as they are whole days.

    ``validity`` is the component of the older validity range (XAD.12, XPN.10), whose bounds count where those say none.
    XAD.13 and XAD.14, or XPN.12 and XPN.13, are the dates.
    """
    effective = {10: 12, 12: 13}[validity]
    days = {
        name: _DAY.match(value.text(effective + place) or value.text(validity, place + 1))
        for place, name in enumerate(("start", "end"))
    }
    return {name: "-".join(match.groups()) for name, match in days.items() if match}
