"""US social security numbers: one recognizer, for everything that reads, sends, prints or logs identifiers.

It errs on the side of yes, because a number that leaves cannot be called back. SB (social beneficiary identifier) is
Health Gorilla's own type for it. https://terminology.hl7.org/CodeSystem-v2-0203.html
"""

from __future__ import annotations

import re
from typing import Final

from bot_layer.fhir.json import Json, objects

_TYPES: Final = frozenset({"SS", "SB", "SSA", "SSNO", "NNUS", "NNUSA"})
# National numbers and tax numbers, which in the US are the social security number if they have its nine digits.
_NATIONAL_TYPES: Final = frozenset({"NI", "NN", "TAX"})
_NINE_DIGITS: Final = re.compile(r"\d{3}[- ]?\d{2}[- ]?\d{4}")
_AUTHORITIES: Final = frozenset({"ssa", "usssa", "us ssa"})
_OID: Final = re.compile(r"(?:^|[^\d.])2\.16\.840\.1\.113883\.4\.1(?:$|[^\d.])")
_HOST: Final = re.compile(r"^[a-z][a-z\d+.-]*://([^/?#]*)", re.IGNORECASE)
_CAMEL: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")
_WORDS: Final = re.compile(
    r"\b(?:s s n|(?:us ?)?ssn(?:um(?:ber)?)?\d?|soc(?:ial)? ?sec(?:urity)?(?: ?(?:number|num|no))?"
    r"|ss (?:number|num|no))\b"
)


def is_ssn(identifier: Json) -> bool:
    """Whether a FHIR Identifier is a social security number: by its system, any coding of its type, or text.

    A national or tax number counts by its nine digits.
    """
    if is_ssn_system(str(identifier.get("system") or "")):
        return True
    kind = identifier.get("type")
    if not isinstance(kind, dict):
        return False
    codings = objects(kind.get("coding"))
    texts = [kind.get("text"), *(coding.get(name) for coding in codings for name in ("code", "display"))]
    codes = {str(coding.get("code") or "").strip().upper() for coding in codings}
    is_national = bool(codes & _NATIONAL_TYPES) and _NINE_DIGITS.fullmatch(str(identifier.get("value") or "").strip())
    is_named = any(isinstance(text, str) and _WORDS.search(_words(text)) for text in texts)
    return bool(codes & _TYPES or is_national or is_named)


def is_ssn_system(system: str) -> bool:
    """Whether a system (a URL, a URN or a bare OID) is that of social security numbers, however it is spelled.

    Of a URL's host nothing counts but ssa.gov.
    """
    host = _HOST.match(system.strip())
    is_theirs = host is not None and f".{host[1].lower()}".endswith(".ssa.gov")
    return is_theirs or bool(_OID.search(system) or _WORDS.search(_words(_HOST.sub("", system.strip()))))


def is_ssn_authority(name: str) -> bool:
    """Whether an assigning authority of HL7 version 2 (CX.4) gives social security numbers."""
    return _words(name) in _AUTHORITIES or is_ssn_system(name)


def _words(text: str) -> str:
    """The words of a text in lower case, one space between them; ``#`` is the word no."""
    return " ".join(re.sub(r"[\W_]+", " ", _CAMEL.sub(" ", text).replace("#", " no ")).lower().split())
