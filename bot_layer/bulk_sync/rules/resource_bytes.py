"""The same rewriting as in ``references`` and ``upsert``, on the bytes that the source printed, many resources at once.

A quote inside a JSON string is always escaped, so that ``"reference":"`` can only be a key. Where a source prints in
another way (white space, escapes), the resource is printed anew first; where bytes can't tell what is meant, it is
left out, and its parsed value is worked on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw
from msgspec.structs import replace

from bot_layer.bulk_sync.rules import provenance as source_mark
from bot_layer.bulk_sync.rules.members import Members, read_members
from bot_layer.bulk_sync.rules.ndjson import Resource
from bot_layer.bulk_sync.rules.references import Key, Known, read_reference
from bot_layer.bulk_sync.rules.source_identity import KEYED_BY_TAG, ROOT
from bot_layer.fhir.json import Json

# A key with the text that follows it, which is empty where it is spelled in another way. Not the end of another name,
# which a backslash tells; nor one with a value that is no text (CarePlan.activity.reference is an object).
_cut_at_references: Final = re.compile(rb'"reference"(?<!\\"reference")(?!:[^"\s])(:"[^"\\]*"|(?=\s*:))').split
# A letter that is written as an escape, so that a name may be.
_is_escaped: Final = re.compile(rb"\\u00").search
# No JSON holds it: it stands where a reference has no name in Medplum.
_MISSING: Final = b"\0"
_SHORT: Final = 4_000
_SHARED: Final = ("identifier", "extension", "tag", "security")
_printer: Final = msgspec.json.Encoder()
_print: Final = _printer.encode


class Marked:
    """Resources that carry our mark already, and still the source's references: those that bytes can tell, by key."""

    def __init__(self, resources: Mapping[Key, Resource], source: str) -> None:
        members = {key: each.members for key, each in resources.items() if each.members is not None}
        self.keys, text = _marked(members, source)
        parts = _cut(text) if len(members) == len(resources) else []
        if not parts:
            # Something is printed in another way: it is told as the others when it is printed as we do.
            self.keys, text = _marked(_printed_anew(resources.values()), source)
            parts = _cut(text)
        if not parts:
            told = {key: line for key, line in zip(self.keys, text.split(b"\n"), strict=False) if _cut(line)}
            self.keys, parts = list(told), _cut(b"\n".join(told.values()))
        self._parts = parts
        self._meant = {text: _key(text, source) for text in set(parts[1::2])}

    def targets(self) -> set[Key]:
        """The resources of the source that these point to."""
        return {key for key in self._meant.values() if key is not None}

    def pointing(self, known: Known) -> dict[Key, bytes]:
        """The resources pointing into Medplum; without those that point to what has no name there."""
        names = {text: _named(text, key, known) for text, key in self._meant.items()}
        parts = self._parts.copy()
        parts[1::2] = [names[each] for each in parts[1::2]]
        # What follows the last line end is no text.
        lines = zip(self.keys, b"".join(parts).split(b"\n"), strict=False)
        return {key: line for key, line in lines if _MISSING not in line}


def _cut(text: bytes) -> list[bytes]:
    """What stands between references, and these, in turns; nothing where bytes can't tell what one means."""
    parts = [] if _is_escaped(text) else _cut_at_references(text)
    return parts if all(parts[1::2]) else []


def _named(text: bytes, key: Key | None, known: Known) -> bytes:
    """A reference as it is to be printed."""
    if key is None:
        return b'"reference"' + text
    target = known.get(key)
    return _MISSING if target is None else f'"reference":"{key.type}/{target}"'.encode()


@lru_cache(maxsize=50_000)
def _key(text: bytes, source: str) -> Key | None:
    """Patients and clinicians are pointed to again and again."""
    return read_reference(text[2:-1].decode(), source)


# -- Our mark


def _printed_anew(resources: Iterable[Resource]) -> dict[Key, Members]:
    texts = [_print(each.value) for each in resources]
    return dict(found for found in read_members(texts) if found is not None)


def _marked(resources: Mapping[Key, Members], source: str) -> tuple[list[Key], bytes]:
    """The resources that bytes can mark: their keys, and a line for each without its id and with our mark."""
    bodies = {key: body for key, each in resources.items() if (body := _body(key, each, source)) is not None}
    return list(bodies), _printer.encode_lines(list(bodies.values()))


def _body(key: Key, members: Members, source: str) -> Json | None:
    """The members as they are to be printed, or None where only the value itself can be worked on."""
    kind, printed, meta = key.type, members.printed, members.meta
    if kind == "Binary":
        return None  # another resource stands for it
    identifiers, tags = bytes(printed.get("identifier", b"")), bytes(meta.tag)
    owned = _owned(identifiers, bytes(printed.get("extension", b"")), tags, bytes(meta.security))
    if owned is None or (tags and kind in KEYED_BY_TAG):
        return None
    source_id = key.id.encode()
    # As text in JSON: what they hold may have to be escaped.
    about = [_print(text)[1:-1] for text in (meta.version_id, meta.last_updated, owned) if text]
    frame = _frame(kind, source, bool(meta.version_id), bool(meta.last_updated), bool(owned))
    mark = frame % (source_id, *about, source_id)
    origin = f"{source}/{kind}/{key.id}" if meta.source is UNSET else meta.source
    # The server sets a version and a time of its own.
    body: Json = {**printed, "meta": replace(meta, version_id="", last_updated="", source=origin)}
    del body["id"]
    if kind in KEYED_BY_TAG:
        body["meta"] = replace(body["meta"], tag=Raw(b"[%b]" % mark))
    else:
        theirs = identifiers[1:-1].strip()
        body["identifier"] = Raw(b"[%b,%b]" % (theirs, mark) if theirs else b"[%b]" % mark)
    return body


@lru_cache(maxsize=2_000)
def _frame(kind: str, source: str, *told: bool) -> bytes:
    """A printed mark, to be filled with the id, with what is told of version, time and entries, and with the id."""
    hole = "\0"
    version, updated, owned = (hole if each else "" for each in told)
    mark = _print(source_mark.mark(Key(kind, hole), source, (version, updated, owned)))
    return mark.replace(b"%", b"%%").replace(b"\\u0000", b"%b")


def _owned(*lists: bytes) -> str | None:
    # Short lists come again and again; large ones would fill the memory.
    return _owned_of(*lists) if sum(map(len, lists)) < _SHORT else _owned_of.__wrapped__(*lists)


@lru_cache(maxsize=2_000)
def _owned_of(*lists: bytes) -> str | None:
    """Which entries of the shared lists are the source's; None where bytes can't tell them apart."""
    owned: set[str] = set()
    for name, text in zip(_SHARED, lists, strict=True):
        tokens = (_tokens if len(text) < _SHORT else _tokens.__wrapped__)(name, text) if text else frozenset()
        if tokens is None:
            return None
        owned |= tokens
    return " ".join(sorted(owned))


@lru_cache(maxsize=2_000)
def _tokens(name: str, text: bytes) -> frozenset[str] | None:
    items = msgspec.json.decode(text)
    if not isinstance(items, list) or not all(_is_told(name, each) for each in items) or (name == "tag" and not items):
        return None
    return frozenset([source_mark.token(name, each) for each in items])


def _is_told(name: str, item: Any) -> bool:
    """False for an entry of our own, and for one that is told apart by all that it holds, its references too."""
    if not isinstance(item, dict) or str(item.get("system", "")).startswith(f"{ROOT}/"):
        return False
    return name in ("tag", "security") or bool(item.get("system") or item.get("value") or item.get("url"))
