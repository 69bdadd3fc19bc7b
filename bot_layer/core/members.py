"""The members of a printed resource, each as its source printed it: read without making values of them.

The whole text is checked (its grammar and its characters): what is not JSON never comes further than this.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from bot_layer.core.references import Key

Members = dict[str, Raw]

# https://hl7.org/fhir/R4/datatypes.html#id
_ID: Final = re.compile(rb'"[A-Za-z0-9\-.]{1,64}"').fullmatch
_TYPE: Final = re.compile(rb'"[A-Za-z]{1,64}"').fullmatch
_NOTHING: Final = Raw()
_members: Final = msgspec.json.Decoder(Members).decode


class Meta(msgspec.Struct, gc=False, forbid_unknown_fields=True, rename="camel"):
    """What a resource says of itself (https://hl7.org/fhir/R4/resource.html#Meta), as far as sources do."""

    version_id: str = ""
    last_updated: str = ""
    source: str | UnsetType = UNSET
    profile: Raw = _NOTHING
    security: Raw = _NOTHING
    tag: Raw = _NOTHING


_meta: Final = msgspec.json.Decoder(Meta).decode


def read_members(text: bytes) -> tuple[Key, Members] | None:
    """A resource that can be looked up, by its members; None for everything else, which is to be parsed."""
    try:
        members = _members(text)
        text.isascii() or text.decode()  # msgspec does not look at the characters that it skips
        kind, source_id = bytes(members["resourceType"]), bytes(members["id"])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError):
        return None
    name = _type_of(kind)
    if not name or not _ID(source_id) or ("meta" in members and not bytes(members["meta"]).startswith(b"{")):
        return None
    return Key(name, source_id[1:-1].decode()), members


def read_meta(text: bytes) -> Meta | None:
    """The members of a meta; None where it has others, or of other types."""
    try:
        return _meta(text)
    except msgspec.DecodeError:
        return None


@lru_cache(maxsize=500)
def _type_of(text: bytes) -> str:
    """The type that a text names; empty where it names none, or a Bundle, which is no resource of its own."""
    return text[1:-1].decode() if _TYPE(text) and text != b'"Bundle"' else ""
