"""US social security numbers: one recognizer, for everything that reads, sends, prints or logs identifiers.

It errs on the side of yes, because a number that leaves cannot be called back. SB (social beneficiary identifier) is
Health Gorilla's own type for it. https://terminology.hl7.org/CodeSystem-v2-0203.html
"""

from __future__ import annotations

import re
from typing import Final

from bot_layer.fhir.json import Json, objects

_TYPES: Final = frozenset({"SS", "SB", "SSN", "SSNUM", "USSSN"})
_AUTHORITIES: Final = frozenset({"SSA", "USSSA", "SSN", "US-SSN", "USSSN"})
_OID: Final = "2.16.840.1.113883.4.1"
_SYSTEM: Final = re.compile(
    r"(?:^|[/:._-])(?:us[._-]?)?ssn(?:um(?:ber)?)?$|social[._-]?security(?:[._-]?n(?:umber|um|o))?$"
)
_TEXT: Final = re.compile(r"\bssn\b|\bss\s*(?:#|no\b|num)|\bsoc(?:ial|\.)?\s*sec(?:urity|\.)?(?!\w)", re.IGNORECASE)


def is_ssn(identifier: Json) -> bool:
    """Whether a FHIR Identifier is a social security number: by its system, any coding of its type, or text."""
    if is_ssn_system(str(identifier.get("system") or "")):
        return True
    kind = identifier.get("type")
    if not isinstance(kind, dict):
        return False
    codings = objects(kind.get("coding"))
    texts = [kind.get("text"), *(coding.get("display") for coding in codings)]
    return any(is_ssn_type(str(coding.get("code") or "")) for coding in codings) or any(
        isinstance(text, str) and _TEXT.search(text) for text in texts
    )


def is_ssn_type(code: str) -> bool:
    """Whether a code of HL7 table 0203, or what senders write instead, means a social security number."""
    return code.strip().upper() in _TYPES


def is_ssn_system(system: str) -> bool:
    """Whether a system (a URL, a URN or a bare OID) is that of social security numbers, however it is spelled."""
    bare = system.strip().lower().split("?")[0].rstrip("/#|").removesuffix("/")
    return bare.removeprefix("urn:oid:").removeprefix("oid:") == _OID or bool(_SYSTEM.search(bare))


def is_ssn_authority(name: str) -> bool:
    """Whether an assigning authority of HL7 version 2 (CX.4) gives social security numbers."""
    return name.strip().upper() in _AUTHORITIES or is_ssn_system(name)
