"""The members of printed resources, each as its source printed it: read without making values of them.

The whole text is checked (its grammar and its characters): what is not JSON never comes further than this. Lines are
read many at once, as the time goes into calls and not into bytes; a bad line among them is found by halving.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from bot_layer.bulk_sync.rules.references import Key

# https://hl7.org/fhir/R4/datatypes.html#id, one a line
_IDS: Final = re.compile(r'(?:"[A-Za-z0-9\-.]{1,64}"\n)+').fullmatch
_TYPES: Final = re.compile(r'(?:"[A-Za-z]{1,64}"\n)+').fullmatch
_NOTHING: Final = Raw()
_NO_META: Final = Raw(b"{}")


class Meta(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True, rename="camel"):
    """What a resource says of itself (https://hl7.org/fhir/R4/resource.html#Meta), as far as sources do."""

    id: str | UnsetType = UNSET
    extension: Raw = _NOTHING
    version_id: str = ""
    last_updated: str = ""
    source: str | UnsetType = UNSET
    profile: Raw = _NOTHING
    security: Raw = _NOTHING
    tag: Raw = _NOTHING


class Members(msgspec.Struct, frozen=True, gc=False):
    """The members of a resource by their names, and what its meta says."""

    printed: dict[str, Raw]
    meta: Meta


_printed: Final = msgspec.json.Decoder(dict[str, Raw]).decode_lines
_metas: Final = msgspec.json.Decoder(Meta).decode_lines


def read_members(lines: Sequence[bytes]) -> list[tuple[Key, Members] | None]:
    """Each resource that can be looked up, by its members; None for everything else, which is to be parsed."""
    try:
        return list(_read(lines))
    except (msgspec.DecodeError, ValueError, KeyError, RecursionError):
        half = len(lines) // 2
        return read_members(lines[:half]) + read_members(lines[half:]) if half else [None]


def _read(lines: Sequence[bytes]) -> zip[tuple[Key, Members]]:
    block = b"\n".join(lines)
    found = _printed(block)
    # A value could go on in the next line, but never with "{" after "}": so each line has a whole one, and no two.
    if len(found) != len(lines) or [each for each in lines if not (each.startswith(b"{") and each.endswith(b"}"))]:
        raise ValueError("a line is no object, or more than one")
    block.isascii() or block.decode()  # msgspec does not look at the characters that it skips
    kinds = _texts(_TYPES, [each["resourceType"] for each in found])
    ids = _texts(_IDS, [each["id"] for each in found])
    if "Bundle" in kinds:
        raise ValueError("a Bundle is no resource of its own")
    metas = _metas(b"\n".join([each.get("meta", _NO_META) for each in found]))
    return zip(map(Key, kinds, ids), map(Members, found, metas), strict=True)


def _texts(pattern: Callable[[str], object], printed: Sequence[Raw]) -> list[str]:
    joined = b"\n".join([*printed, b""]).decode()
    if not pattern(joined):
        raise ValueError("no type or id that can be looked up")
    return joined[1:-2].split('"\n"')
