"""Phones and e-mail addresses as people and systems write them, cleaned of what does not belong to them.

https://hl7.org/fhir/R4/datatypes.html#ContactPoint, RFC 3966 (``tel:``), RFC 6068 (``mailto:``), and the text forms of
HL7 version 2 (TN: ``[(999)]999-9999[X99999][B99999][C any text]``).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from bot_layer.fhir.json import Json, objects, text
from bot_layer.fhir.periods import in_force

_USES: Final = frozenset({"home", "work", "mobile"})
_PHONE_SYSTEMS: Final = frozenset({"phone", "sms"})
_FEWEST_DIGITS, _MOST_DIGITS, _NORTH_AMERICAN_DIGITS = 7, 15, 11
_DASHES: Final = re.compile("[\u2010-\u2015\u2212\u00ad]")
# A shape check, not a proof of delivery: one @, a dot behind it, nothing that a mail header would trip over.
_EMAIL: Final = re.compile(r"[^\s@<>,;:\"]+@[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9-]+)+")
_WITHIN: Final = re.compile(r"<([^<>\s]+@[^<>\s]+)>")
_NUMBER: Final = re.compile(r"\+?[0-9(][0-9().\s/-]*[0-9]")
_NUMBER_WITHOUT_SLASH: Final = re.compile(r"\+?[0-9(][0-9().\s-]*[0-9]")
_EXTENSION: Final = re.compile(
    r"[\s.,;()]*(?:\b(?:extension|ext|extn|xtn)\b|(?<![a-z])(?:ext|x)(?=[\s.:=#]*[0-9])|;ext|#)[\s.:=#]*([0-9]{1,6})(?![0-9])",
    re.IGNORECASE,
)
_LAST_RANK: Final = 1_000_000


def contact_points(value: object, now: datetime) -> list[Json]:
    """The phones and e-mail addresses of ``Patient.telecom`` that are well formed and in force, each once.

    Of two entries for one number the one of the better rank counts (1 is the best).
    """
    kept: dict[tuple[str, str], Json] = {}
    for point in objects(value):
        cleaned = _cleaned(point)
        if cleaned is None or not in_force(point, now):
            continue
        other = kept.get(_key(cleaned))
        if other is None or cleaned.get("rank", _LAST_RANK) < other.get("rank", _LAST_RANK):
            kept[_key(cleaned)] = cleaned
    return list(kept.values())


def key_of(point: Json) -> tuple[str, str] | None:
    """What makes two contact points the same one; None for one that is not a well-formed phone or e-mail address."""
    cleaned = _cleaned(point)
    return None if cleaned is None else _key(cleaned)


def _key(cleaned: Json) -> tuple[str, str]:
    is_email = cleaned["system"] == "email"
    return cleaned["system"], cleaned["value"].casefold() if is_email else _digits(cleaned["value"])


def keys_of(points: Iterable[Json]) -> frozenset[tuple[str, str] | None]:
    """The phones and mailboxes that contact points reach."""
    return frozenset(map(key_of, points))


def _cleaned(point: Json) -> Json | None:
    """The point with its value cleaned, and no element but system, value, use and rank; None where it is none."""
    words = " ".join(unicodedata.normalize("NFKC", _DASHES.sub("-", text(point.get("value")))).split())
    scheme, _, rest = words.partition(":")
    known = {"tel": "phone", "sms": "phone", "callto": "phone", "mailto": "email"}.get(scheme.lower())
    given = text(point.get("system"))
    system = known or ("phone" if given in _PHONE_SYSTEMS else given) or ("email" if "@" in words else "phone")
    value = rest.strip().removeprefix("//") if known else words
    value = _phone(value) if system == "phone" else _email(value) if system == "email" else ""
    if (given not in {*_PHONE_SYSTEMS, "email", "url", ""}) or not value:
        return None
    rank = point.get("rank")
    is_ranked = isinstance(rank, int) and not isinstance(rank, bool) and rank > 0
    use = {"use": point["use"]} if text(point.get("use")) in _USES else {}
    return {"system": system, "value": value, **use, **({"rank": rank} if is_ranked else {})}


def _email(value: str) -> str:
    found = _WITHIN.search(value)
    address = (found[1] if found else value).partition("?")[0].strip().removeprefix("mailto:")
    return address if _EMAIL.fullmatch(address) else ""


def _phone(value: str) -> str:
    """The first number of a text as it is written there, with its extension as ``x5``; "" where there is none."""
    numbers = list(_NUMBER.finditer(value))
    if any(len(_digits(match.group())) > _MOST_DIGITS for match in numbers):
        numbers = list(_NUMBER_WITHOUT_SLASH.finditer(value))  # the slash stands between two numbers
    for match in numbers:
        number = match.group().strip()
        if _FEWEST_DIGITS <= len(_digits(number)) <= _MOST_DIGITS:
            extension = _EXTENSION.match(value, match.end())
            number = number if number.count("(") == number.count(")") else number.replace("(", "").replace(")", "")
            return f"{number} x{extension[1]}" if extension else number
    return ""


def _digits(number: str) -> str:
    """The digits that are dialed, without extension and without the 1 of North America."""
    found = _EXTENSION.search(number)
    digits = "".join(sign for sign in (number[: found.start()] if found else number) if sign in "0123456789")
    return digits[1:] if len(digits) == _NORTH_AMERICAN_DIGITS and digits.startswith("1") else digits
