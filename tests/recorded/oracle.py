"""What must not survive: every text of a recording that is no code, found again in any coat that text can wear.

It shares nothing with the code that replaces: it knows no element's type, only a list of words that are no person's.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

_WORD = re.compile(r"[^\W_]{4,}")
# Members whose values are codes, systems, types or of the protocol.
_CODED = re.compile(
    "resourceType|system|url|use|code|status|contentType|gender|type|mode|severity|method|path|bot|version|intent|kind"
    "|token_type|language|rank|Content-Type|action|relation|profile|runtimeVersion|X-Medplum-Interaction"
)


def strings(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a JSON value with the name of its member, also inside JSON and base64."""
    if isinstance(value, dict):
        for member, each in value.items():
            yield from strings(each, member)
    elif isinstance(value, list):
        for each in value:
            yield from strings(each, name)
    elif isinstance(value, str):
        inner = _inner(value)
        if inner is None:
            yield name, value
        else:
            yield from strings(inner, name)


def _inner(text: str) -> Any:
    try:
        if text[:1] in {"{", "["}:
            return json.loads(text)
        inner = base64.b64decode(text, validate=True).decode() if len(text) >= 16 else ""
    except (ValueError, binascii.Error):
        return None
    return inner if inner.isprintable() and inner else None


def survivors(recording: Any, text: str, allowed: frozenset[str] = frozenset()) -> list[str]:
    """The texts of a recording that a case still shows, apart from systems and other allowed texts."""
    coats = unquote(text)
    for found in re.findall(r"[A-Za-z0-9+/=]{16,}", text):
        inner = _inner(found)
        coats += inner if isinstance(inner, str) else ""
    systems = {each for name, each in strings(recording) if name in {"system", "url"}}
    for each in sorted(systems, key=len, reverse=True):
        coats = coats.replace(f'"{each}"', "")
    coats = re.sub(r'"[A-Z][A-Z_]+_[A-Z_]+"', "", coats)  # names of settings
    read = {word.casefold() for word in _WORD.findall(coats)}
    codes = {each.casefold() for name, each in strings(recording) if name in {"code", "valueCode"}}
    given = {each for name, each in strings(recording) if not _CODED.fullmatch(name) and each.casefold() not in codes}
    return sorted(
        each for each in given - allowed if each not in " ".join(systems) and _is_in(each, coats.casefold(), read)
    )


def _is_in(text: str, coats: str, words: set[str]) -> bool:
    """True if the whole text is there, and all its words of four letters or digits are words there."""
    own = [word.casefold() for word in _WORD.findall(text)]
    return bool(own) and text.casefold() in coats and words.issuperset(own)
