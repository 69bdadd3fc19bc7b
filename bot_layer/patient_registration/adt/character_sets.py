"""Character sets of HL7 messages (MSH-18, table 0211), with the names that senders write for them.

A text that arrives decoded needs no character set, except where an escape sequence holds bytes of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from bot_layer.errors import InputError

# The names on the right are Python's. An empty field means ASCII, of which UTF-8 is a superset.
_CODECS: Final[Mapping[str, str]] = {
    "": "utf-8",
    "ASCII": "utf-8",
    "USASCII": "utf-8",
    "ISOIR6": "utf-8",
    "UNICODE": "utf-8",
    "UNICODEUTF8": "utf-8",
    "UTF8": "utf-8",
    "ISOIR192": "utf-8",
    "UNICODEUTF16": "utf-16",
    "UTF16": "utf-16",
    "ANSI": "cp1252",
    "LATIN1": "iso8859-1",
    "ISOIR100": "iso8859-1",
    "ISOIR87": "iso2022_jp",
    "GB180302000": "gb18030",
    "GB18030": "gb18030",
    "KSX1001": "euc_kr",
    "BIG5": "big5",
    **{f"{prefix}125{page}": f"cp125{page}" for prefix in ("WINDOWS", "CP", "WIN") for page in range(9)},
    **{f"{prefix}8859{part}": f"iso8859-{part}" for prefix in ("", "ISO") for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 15)},
}


def codec(character_set: str) -> str:
    """Python's name for a value of MSH-18; InputError ``character-set`` for one that is not known."""
    try:
        return _CODECS[re.sub(r"[^A-Z0-9]", "", character_set.upper())]
    except KeyError:
        raise InputError(
            "MSH-18 names a character set that is not supported.", code="character-set", expression=["MSH-18"]
        ) from None
