"""The demographics that a patient index matches on, picked from a FHIR Patient and made comparable.

https://hl7.org/fhir/R4/patient.html and https://hl7.org/fhir/R4/datatypes.html#HumanName
"""

from __future__ import annotations

import re
import unicodedata
from datetime import date
from typing import Final

from bot_layer.fhir.json import Json, objects, text
from bot_layer.fhir.periods import has_end

# A name or address that is no longer used, or hides the person's name, is never registered.
_PAST_USES: Final = frozenset({"old", "maiden", "temp", "anonymous", "nickname"})
_NAME_ORDER: Final = {"official": 0, "usual": 1}
_ADDRESS_ORDER: Final = {"home": 0}
_PAST_ADDRESS_USES: Final = frozenset({"old", "temp", "billing"})
_ADDRESS_PARTS: Final = ("line", "city", "state", "postalCode")
_POST_OFFICE_BOX: Final = re.compile(
    r"\b(?:p\.?\s*o\.?\s*b(?:ox|\.)|pob\b|post(?:al)?\s+(?:office\s+)?box\b)", re.IGNORECASE
)


def words(value: object) -> str:
    """The text without outer and doubled spaces; "" for anything that is not text."""
    return " ".join(value.split()) if isinstance(value, str) else ""


def folded(value: object) -> str:
    """The text as it is compared: composed, without case, without needless spaces."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", words(value)).casefold())


def texts(value: object) -> tuple[str, ...]:
    """The non-empty texts of a list; an empty tuple for anything else."""
    return tuple(text for text in map(words, value) if text) if isinstance(value, list) else ()


def entries(value: object) -> tuple[Json, ...]:
    """The objects of a list; an empty tuple for anything else."""
    return tuple(objects(value))


def current_name(patient: Json) -> Json:
    """Family, given and suffix of the name in force: official before usual before the rest; {} where there is none."""
    names = [name for name in entries(patient.get("name")) if text(name.get("use")) not in _PAST_USES]
    ranked = sorted(
        names, key=lambda name: (has_end(name), not _full_name(name), _NAME_ORDER.get(text(name.get("use")), 2))
    )
    return _name(ranked[0]) if ranked else {}


def current_address(patient: Json) -> Json:
    """The address in force; {} where there is none.

    The most complete one comes first, then one where the patient lives before a mailing address or a post office box,
    then the home address.
    """
    addresses = [entry for entry in entries(patient.get("address")) if text(entry.get("use")) not in _PAST_ADDRESS_USES]
    ranked = sorted(
        addresses,
        key=lambda entry: (
            has_end(entry),
            len(missing_address_parts(_address(entry))),
            _is_postal(entry),
            _ADDRESS_ORDER.get(text(entry.get("use")), 1),
        ),
    )
    return _address(ranked[0]) if ranked else {}


def missing_address_parts(address: Json) -> tuple[str, ...]:
    """Which of line, city, state and postal code an address lacks."""
    return tuple(part for part in _ADDRESS_PARTS if not address.get(part))


def full_birth_date(value: object) -> str:
    """The birth date where it is a whole calendar date, else ""."""
    text = words(value)
    try:
        return text if date.fromisoformat(text).isoformat() == text else ""
    except ValueError:
        return ""


def same_name(ours: Json, theirs: Json) -> bool:
    """Whether two names say the same, apart from case and spaces."""
    return _folded_name(ours) == _folded_name(theirs)


def same_address(ours: Json, theirs: Json) -> bool:
    """Whether two addresses say the same, apart from case and spaces."""
    return folded_address(ours) == folded_address(theirs)


def _name(entry: Json) -> Json:
    parts: Json = {
        "family": words(entry.get("family")),
        "given": list(texts(entry.get("given"))),
        "suffix": list(texts(entry.get("suffix"))),
    }
    return {key: value for key, value in parts.items() if value}


def _full_name(entry: Json) -> bool:
    return {"family", "given"} <= _name(entry).keys()


def _address(entry: Json) -> Json:
    parts: Json = {
        "use": words(entry.get("use")),
        "type": words(entry.get("type")),
        "text": words(entry.get("text")),
        "line": list(texts(entry.get("line"))),
        "city": words(entry.get("city")),
        "state": words(entry.get("state")),
        "postalCode": words(entry.get("postalCode")),
        "country": words(entry.get("country")),
        "period": _period(entry),
    }
    return {key: value for key, value in parts.items() if value}


def _is_postal(address: Json) -> bool:
    """Whether an address is only for mail."""
    return address.get("type") == "postal" or any(map(_POST_OFFICE_BOX.search, texts(address.get("line"))))


def _period(entry: Json) -> Json:
    period = entry.get("period")
    return (
        {name: words(period.get(name)) for name in ("start", "end") if words(period.get(name))}
        if isinstance(period, dict)
        else {}
    )


def _folded_name(name: Json) -> tuple[str, ...]:
    # Suffixes (Jr, III) do not take part in Health Gorilla's matching, but a change of one is still a change.
    return (
        folded(name.get("family")),
        " ".join(map(folded, texts(name.get("given")))),
        *map(folded, texts(name.get("suffix"))),
    )


def folded_address(address: Json) -> tuple[str, ...]:
    """Line, city, state, postal code and country as they are compared."""
    return (
        " ".join(map(folded, texts(address.get("line")))),
        *(folded(address.get(part)) for part in (*_ADDRESS_PARTS[1:], "country")),
    )
