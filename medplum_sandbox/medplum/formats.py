"""Names, addresses and other values as one line, as a server writes them into displays and searches."""

from __future__ import annotations

from typing import Any

from medplum_sandbox.json import Json


def human_name(name: Json, *, with_text: bool = False) -> str:
    """A HumanName; its text where there is nothing else. ``with_text`` adds the words that only the text has."""
    parts = [*_texts(name.get("prefix")), *_texts(name.get("given")), *_texts(name.get("family"))]
    parts += _texts(name.get("suffix"))
    text = "".join(_texts(name.get("text")))
    found = " ".join(parts).strip() if parts else text
    if with_text and text:
        known = set(found.lower().split())
        for word in text.lower().split():
            if word not in known:
                known.add(word)
                found += f" {word}"
    return found


def given_of(name: Json) -> str:
    """The given names."""
    return " ".join(_texts(name.get("given"))).strip()


def family_of(name: Json) -> str:
    """The family name."""
    return " ".join(_texts(name.get("family"))).strip()


def address_text(address: Json) -> str:
    """An Address: its lines, then city, state and postal code."""
    place = ", ".join(part for key in ("city", "state", "postalCode") for part in _texts(address.get(key)))
    return ", ".join([*_texts(address.get("line")), *([place] if place else [])]).strip()


def text_of(value: Any) -> str:
    """A value of any type as a column of text holds it."""
    if isinstance(value, str):
        return value
    if not isinstance(value, dict):
        return "" if value is None else str(value)
    if any(key in value for key in ("family", "given", "prefix", "suffix")):
        return human_name(value)
    if any(key in value for key in ("line", "city", "state", "postalCode")):
        return address_text(value)
    for key in ("text", "value", "display", "reference"):
        if isinstance(value.get(key), str):
            return str(value[key])
    return ""


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [item for item in values if isinstance(item, str) and item]
