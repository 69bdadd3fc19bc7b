"""Character sets of HL7 messages (MSH-18, table 0211), with the names that senders write for them.

A text that arrives decoded needs no character set, except where an escape sequence holds bytes of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from bot_layer.errors import InputError

# HL7's own names, without signs; Python knows all others. An empty field means ASCII, of which UTF-8 is a superset.
_CODECS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("", "ASCII", "USASCII", "ISOIR6", "UNICODE", "UNICODEUTF8", "ISOIR192"), "utf-8"),
    "UNICODEUTF16": "utf-16",
    "ANSI": "cp1252",
    "ISOIR100": "iso8859-1",
    "ISOIR87": "iso2022_jp",
    "GB180302000": "gb18030",
    "KSX1001": "euc_kr",
}
_ISO_8859: Final = re.compile(r"(?:ISO)?8859(\d{1,2})")


def codec(character_set: str) -> str:
    """Python's name for a value of MSH-18; InputError ``character-set`` for one that is not known."""
    name = re.sub(r"[^A-Z0-9]", "", character_set.upper())
    part = _ISO_8859.fullmatch(name)
    known = f"iso8859-{part[1]}" if part else _CODECS.get(name, re.sub(r"^WIN(?:DOWS)?(?=\d)", "CP", name))
    try:
        bytes(4).decode(known)
    except LookupError:
        raise InputError(
            "MSH-18 names a character set that is not supported.", code="character-set", expression=["MSH-18"]
        ) from None
    return known
