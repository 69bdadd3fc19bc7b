"""HL7 data types as FHIR: a name (XPN), an address (XAD), a phone or e-mail address (XTN), an identifier (CX), a date.

The maps are those of https://build.fhir.org/ig/HL7/v2-to-fhir/datatype_maps.html: a mailing address (table 0190) is of
type postal and has no use; one XTN may hold a phone and an e-mail address (tables 0201 and 0202).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from typing import Final

from bot_layer.errors import InputError
from bot_layer.fhir.identifiers import V2_0203
from bot_layer.fhir.json import Json
from bot_layer.fhir.social_security import is_ssn, is_ssn_authority
from bot_layer.patient_registration.adt.hl7v2 import Repetition

_NAME_USES: Final = {
    "L": "official",
    "D": "usual",
    "M": "maiden",
    "N": "nickname",
    "A": "nickname",
    "S": "anonymous",
    "T": "temp",
}
_PAST_NAMES: Final = frozenset({"B", "BAD", "NAV", "R", "NOUSE"})
# A type that is not listed is a home.
_ADDRESS_USES: Final = {"B": "work", "O": "work", "C": "temp", "V": "temp", "BI": "billing"}
_POSTAL: Final = frozenset({"M", "SH"})
# Where somebody was born, comes from or once lived, or gets no mail: nobody is reached there.
_NOT_REACHED_AT: Final = frozenset({"BA", "BDL", "BR", "F", "N", "S", "TM"})
_EMAIL_EQUIPMENT: Final = frozenset({"INTERNET", "X.400"})
_SYSTEMS: Final = {"FX": "fax", "BP": "pager", "MD": "other", "TDD": "other", "TTY": "other"}
_POINT_USES: Final = {"PRN": "home", "ORN": "home", "VHN": "home", "WPN": "work", "PRS": "mobile"}
_DATE: Final = re.compile(r"(\d{4})(?:(\d{2})(?:(\d{2})(?:\d{2,6}(?:\.\d{1,4})?)?)?)?(?:[+-]\d{4})?", re.ASCII)
_DAY: Final = re.compile(r"(\d{4})(\d{2})(\d{2})", re.ASCII)
_OID: Final = re.compile(r"[0-2](?:\.\d+){3,}", re.ASCII)


def name(value: Repetition) -> Json:
    """An XPN as a HumanName; {} for a name that is not used any more or says nothing."""
    kind = value.text(7).upper()
    if kind in _PAST_NAMES:
        return {}
    given = [value.text(2), *value.text(3).split()]
    # FN.1 is the whole surname; some senders write its prefix and its own part alone.
    family = value.text(1) or f"{value.text(1, 2)} {value.text(1, 3)}".strip()
    return _saying(
        {
            "use": _NAME_USES.get(kind or "L", "usual"),
            "family": family,
            "given": [text for text in given if text],
            "prefix": [value.text(5)] if value.text(5) else [],
            "suffix": [text for text in (value.text(4), value.text(6)) if text],
            "period": _period(value, 10, 12),
        }
    )


def address(value: Repetition) -> Json:
    """An XAD as an Address; {} where nobody is reached there, or where it says nothing."""
    kind = value.text(7).upper()
    if kind in _NOT_REACHED_AT:
        return {}
    return _saying(
        {
            "use": "" if kind in _POSTAL else _ADDRESS_USES.get(kind, "home"),
            "type": "postal" if kind in _POSTAL else "",
            "line": [text for text in (_street(value), value.text(2)) if text],
            "city": value.text(3),
            "district": value.text(9),
            "state": value.text(4),
            "postalCode": value.text(5),
            "country": value.text(6),
            "period": _period(value, 12, 13),
        }
    )


def points(value: Repetition, default_use: str) -> list[Json]:
    """An XTN as ContactPoints: its phone and its e-mail address, as far as it has them."""
    use, equipment = value.text(2).upper(), value.text(3).upper()
    number, email = _phone(value), value.text(4)
    if not email and (use == "NET" or equipment in _EMAIL_EQUIPMENT or "@" in number):
        number, email = "", number
    elif email and "@" not in email and not number and equipment not in _EMAIL_EQUIPMENT and use != "NET":
        number, email = email, ""
    found: list[Json] = []
    if number:
        use = "mobile" if equipment == "CP" and default_use == "home" else _POINT_USES.get(use, default_use)
        found.append({"system": _SYSTEMS.get(equipment, "phone"), "value": number, "use": use})
    return [*found, {"system": "email", "value": email, "use": default_use}] if email else found


def identifier(value: Repetition, authorities: Mapping[str, str]) -> Json | None:
    """A CX as an Identifier; None without a value or a known system, and for a social security number."""
    system, number, code = _system(value, authorities), value.text(1), value.text(5).upper()
    found: Json = {"system": system, "value": number}
    if code:
        found["type"] = {"coding": [{"system": V2_0203, "code": code}]}
    is_theirs = any(is_ssn_authority(value.text(component, part)) for component in (4, 6) for part in (1, 2))
    return found if system and number and not is_theirs and not is_ssn(found) else None


def fhir_date(text: str, where: str) -> str:
    """The date of a time stamp, as precise as it is; "" where there is none. InputError for what is no date."""
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


def _saying(parts: Json) -> Json:
    """The parts that have a value; {} where only the kind has, which some senders write beside nothing."""
    found = {name: part for name, part in parts.items() if part}
    return found if found.keys() - {"use", "type", "period"} else {}


def _period(value: Repetition, validity: int, effective: int) -> Json:
    """From the effective to the expiration date, as far as they are whole days.

    ``validity`` is the component of the older validity range, whose bounds count where the newer components
    (``effective`` and the next one) are empty.
    """
    days = {
        name: _DAY.match(value.text(effective + place) or value.text(validity, place + 1))
        for place, name in enumerate(("start", "end"))
    }
    return {name: "-".join(match.groups()) for name, match in days.items() if match}


def _street(value: Repetition) -> str:
    """The street line: SAD.1, with the number (SAD.3) and the street's name (SAD.2) where it lacks them."""
    whole, street, number = (value.text(1, part) for part in (1, 2, 3))
    for part, text in (("street", street), ("number", number)):
        if text and not re.search(rf"(?<!\w){re.escape(text)}(?!\w)", whole, re.IGNORECASE):
            whole = f"{whole} {text}" if part == "street" else f"{text} {whole}"
    return " ".join(whole.split())


def _phone(value: Repetition) -> str:
    """The number as it was written whole (XTN.1, XTN.12), else put together from its parts."""
    whole = value.text(1) or value.text(12)
    if whole:
        return whole
    country = f"+{value.text(5).lstrip('+')}" if value.text(5) else ""
    extension = f"x{value.text(8)}" if value.text(8) else ""
    local = " ".join(part for part in (country, value.text(6), value.text(7)) if part)
    return f"{local} {extension}".strip() if local else ""


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
