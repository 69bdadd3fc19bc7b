"""What must be written so that Medplum holds what the source sent: little, and nobody's edit by accident.

The source owns its fields. What was added in Medplum to the lists that both share (identifiers, extensions, tags) is
kept: our mark on the resource says which of their entries came from the source.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal

import msgspec
import xxhash

from bot_layer.core.json import Json
from bot_layer.core.references import Key
from bot_layer.core.source_identity import (
    KEYED_BY_TAG,
    ROOT,
    UPDATED_URL,
    VERSION_URL,
    id_system,
    lookup_query,
    source_id_of,
    stored_as,
)

Policy = Literal["source", "keep", "report"]
Dumps = Callable[[Any], bytes]

ORIGIN_URL: Final = f"{ROOT}/source-address"
OWNED_URL: Final = f"{ROOT}/source-entries"
CONTENT_URL: Final = f"{ROOT}/content"
CONTENT_DIGEST_URL: Final = f"{ROOT}/content-digest"
_ABOUT_URLS: Final = (VERSION_URL, UPDATED_URL, OWNED_URL)
SYNC_TAG: Final = f"{ROOT}/sync"
UNRESOLVED_TAG: Final[Json] = {"system": SYNC_TAG, "code": "unresolved-reference"}
# Set by Medplum on every version.
SERVER_META: Final = (
    "versionId",
    "lastUpdated",
    "author",
    "project",
    "compartment",
    "account",
    "accounts",
    "onBehalfOf",
)
# A server of one's own signs links under /storage/, Medplum's service those under /binary/.
_STORAGE: Final = re.compile(
    r"https?://[^/]+(?:/[^?]*)?/(?:storage|binary)/([A-Za-z0-9\-]+)(?:/[^?]*)?\?.*Signature=.*"
)


class Incoming(msgspec.Struct, frozen=True, gc=False):
    """A resource of the source as Medplum is to hold it, and the digest of what the source sent."""

    key: Key
    resource: Json
    digest: bytes = b""
    unresolved: frozenset[Key] = frozenset()
    # The same as bytes, ready to be sent, where it was rewritten in bytes; ``resource`` is then made when it is needed.
    body: bytes = b""
    make: Callable[[], Json] | None = None

    def full(self) -> Json:
        """The resource, made now if only its bytes were made."""
        return self.make() if self.make is not None else self.resource


@dataclass(frozen=True)
class Found:
    """What Medplum holds for a key. ``edited`` is True where its last version is not this sync's."""

    id: str
    version: str
    resource: Json
    edited: bool = False


class Write(msgspec.Struct, frozen=True, gc=False):
    """One entry of a batch: a create (``id`` empty) or an update of a version."""

    incoming: Incoming
    resource: Json
    id: str = ""
    version: str = ""
    overwrites_edit: bool = False


@dataclass(frozen=True)
class Plan:
    """What to do with each incoming resource: every one stands in exactly one list."""

    creates: tuple[Write, ...] = ()
    updates: tuple[Write, ...] = ()
    unchanged: tuple[tuple[Incoming, Found], ...] = ()
    kept: tuple[tuple[Incoming, Found], ...] = ()
    foreign: tuple[Incoming, ...] = ()


def digest_of(raw: bytes) -> bytes:
    """A short digest of what the source sent: two that are equal were the same bytes. It keeps no secret."""
    return xxhash.xxh3_128_digest(raw)


def prepare(resource: Json, source: str) -> Json:
    """The resource as Medplum is to hold it, still with the source's references: no id, and our mark beside its own."""
    body = {name: value for name, value in resource.items() if name not in ("id", "meta")}
    if resource["resourceType"] not in KEYED_BY_TAG:
        body["identifier"] = mark_of(resource, source)
    return {**body, "meta": meta_of(resource, source)}


def mark_of(resource: Json, source: str) -> list[Any]:
    """The source's own identifiers (or tags), and beside them the mark by which the sync finds the resource again."""
    key = Key(str(resource["resourceType"]), str(resource["id"]))
    meta = resource.get("meta") or {}
    owned = " ".join(sorted(_owned(resource)))
    about = (str(meta.get("versionId") or ""), str(meta.get("lastUpdated") or ""), owned)
    theirs = meta.get("tag") if key.type in KEYED_BY_TAG else resource.get("identifier")
    return [*_others(theirs, id_system(key.type)), mark(key, source, about)]


def mark(key: Key, source: str, about: tuple[str, str, str]) -> Json:
    """The mark itself, which tells the version, its time, and which entries of the shared lists are the source's."""
    notes = [{"url": ORIGIN_URL, "valueUri": f"{source}/{key.type}/{key.id}"}]
    for url, text in zip(_ABOUT_URLS, about, strict=True):
        if text:
            notes.append({"url": url, "valueString": text})
    name = "code" if key.type in KEYED_BY_TAG else "value"
    return {"extension": notes, "system": id_system(key.type), name: key.id}


def meta_of(resource: Json, source: str) -> Json:
    """The source's meta without what a server sets, and with the address of the resource as its source."""
    kind = str(resource["resourceType"])
    meta = {name: value for name, value in (resource.get("meta") or {}).items() if name not in SERVER_META}
    if kind in KEYED_BY_TAG:
        meta["tag"] = mark_of(resource, source)
    # Where the source names no source of its own, its address is one; a source's own word is left alone.
    meta.setdefault("source", f"{source}/{kind}/{resource['id']}")
    return meta


def prepare_binary(resource: Json, source: str, *, content_id: str, digest: str) -> Json:
    """What stands for a Binary of the source: a Basic that can be found, and points to the content in Medplum."""
    about = {name: value for name, value in resource.items() if name in ("id", "meta")}
    basic = prepare({**about, "resourceType": "Binary"}, source)
    return {
        **basic,
        "resourceType": "Basic",
        "code": {"coding": [{"system": SYNC_TAG, "code": "binary"}]},
        "extension": [
            {"url": CONTENT_URL, "valueReference": {"reference": f"Binary/{content_id}"}},
            {"url": CONTENT_DIGEST_URL, "valueString": digest},
        ],
    }


def content_of(found: Found) -> tuple[str, str]:
    """The id and the digest of the content that a Basic stands for; empty where there is none."""
    extensions = {each.get("url"): each for each in _listed(found.resource.get("extension"))}
    reference = (extensions.get(CONTENT_URL, {}).get("valueReference") or {}).get("reference", "")
    return str(reference).removeprefix("Binary/"), str(extensions.get(CONTENT_DIGEST_URL, {}).get("valueString", ""))


def target_id(key: Key, found: Found) -> str:
    """The id that a reference to this resource must name in Medplum."""
    return content_of(found)[0] if key.type == "Binary" else found.id


def plan(
    found: Mapping[Key, Found],
    incoming: Iterable[Incoming],
    *,
    source: str,
    policy: Policy = "source",
    former: Mapping[Key, str] | None = None,
) -> Plan:
    """What to create, to update and to leave alone.

    What was deleted in Medplum comes back under its ``former`` id, so that whatever points to it still does.
    """
    creates: list[Write] = []
    updates: list[Write] = []
    unchanged: list[tuple[Incoming, Found]] = []
    kept: list[tuple[Incoming, Found]] = []
    foreign: list[Incoming] = []
    for each in incoming:
        there = found.get(each.key)
        if there is None and former and each.key in former:
            again = tagged(each.full(), each.unresolved) | {"id": former[each.key]}
            updates.append(Write(each, again, former[each.key]))
        elif there is None:
            creates.append(Write(each, {} if each.body else tagged(each.full(), each.unresolved)))
        elif not brought_by(there.resource, each.key, source):
            foreign.append(each)
        else:
            wanted = merged(there, each)
            if comparable(wanted) == comparable(there.resource):
                unchanged.append((each, there))
            elif there.edited and policy != "source":
                kept.append((each, there))
            else:
                updates.append(Write(each, wanted, there.id, there.version, overwrites_edit=there.edited))
    return Plan(tuple(creates), tuple(updates), tuple(unchanged), tuple(kept), tuple(foreign))


def merged(there: Found, incoming: Incoming) -> Json:
    """The source's fields, Medplum's id, and what was added in Medplum to the shared lists."""
    wanted = tagged(incoming.full(), incoming.unresolved)
    owned = _owned_before(there.resource, incoming.key)
    body = _with_local(wanted, there.resource, ("identifier", "extension"), owned)
    meta = _with_local(wanted["meta"], there.resource.get("meta") or {}, ("tag", "security"), owned)
    return {**body, "id": there.id, "meta": meta}


def tagged(resource: Json, unresolved: frozenset[Key]) -> Json:
    """The resource with a searchable tag while one of its references waits for its target, and without it after."""
    meta = resource.get("meta") or {}
    tags = [each for each in _listed(meta.get("tag")) if not _is_ours(each, SYNC_TAG)]
    if unresolved:
        tags.append(UNRESOLVED_TAG)
    rest = {name: value for name, value in meta.items() if name != "tag"}
    return {**resource, "meta": rest | ({"tag": tags} if tags else {})}


def brought_by(resource: Json, key: Key, source: str) -> bool:
    """True where this source's sync brought the resource: only those are ever updated or deleted."""
    notes = _notes(resource, key)
    origin = notes.get(ORIGIN_URL)
    # A mark without an address is an older sync's, or one made by hand as the integration's description prints it.
    return origin is None or origin == f"{source}/{key.type}/{key.id}"


def source_version(resource: Json) -> tuple[str, str]:
    """The source's version and its time, as our mark on a resource tells them."""
    kind = str(resource["resourceType"])
    notes = _notes(resource, Key(kind, source_id_of(resource, kind) or ""))
    return notes.get(VERSION_URL, ""), notes.get(UPDATED_URL, "")


def comparable(resource: Json) -> Json:
    """What counts when two versions are compared: not what the server sets, nor the source's version number."""
    meta = {name: value for name, value in (resource.get("meta") or {}).items() if name not in SERVER_META}
    cleaned: Json = _cleaned({**resource, "meta": meta})
    return cleaned


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A batch entry as bytes, with the key that must not stand twice in one batch."""

    key: Key
    body: bytes
    write: Write | None = None


def entry(write: Write, dumps: Dumps, *, guarded: bool = False) -> Entry:
    """POST for a create, PUT with If-Match for an update. ``guarded`` creates only if the identifier is still free."""
    key, body = write.incoming.key, write.incoming.body
    if body and not write.id and not guarded:
        return Entry(key, b"".join((_posted(key.type), body, b"}")), write)
    kind = stored_as(key.type)
    request: Json = {"method": "PUT" if write.id else "POST", "url": f"{kind}/{write.id}" if write.id else kind}
    if write.id and write.version:
        request["ifMatch"] = f'W/"{write.version}"'
    if guarded and not write.id:
        request["ifNoneExist"] = lookup_query(key.type, [key.id])
    body = body if body and not write.id else dumps(write.resource)
    return Entry(key, b'{"request":%b,"resource":%b}' % (dumps(request), body), write)


@lru_cache(maxsize=500)
def _posted(kind: str) -> bytes:
    """What stands before a resource that is created."""
    return f'{{"request":{{"method":"POST","url":"{stored_as(kind)}"}},"resource":'.encode()


def conditional_entry(write: Write, dumps: Dumps) -> Entry:
    """A conditional PUT, as the integration's description prints it."""
    key = write.incoming.key
    request = {"method": "PUT", "url": f"{stored_as(key.type)}?{lookup_query(key.type, [key.id])}"}
    resource = {name: value for name, value in write.resource.items() if name != "id"}
    return Entry(key, b'{"request":%b,"resource":%b}' % (dumps(request), dumps(resource)), write)


_HEAD: Final = b'{"resourceType":"Bundle","type":"batch","entry":['


def bundle(entries: Sequence[Entry]) -> bytes:
    """The batch as bytes."""
    return _HEAD + b",".join([each.body for each in entries]) + b"]}"


def batches(entries: Iterable[Entry], *, max_bytes: int, max_entries: int = 100) -> Iterator[list[Entry]]:
    """Batches under the server's body limit, in order, in none of which a key stands twice."""
    batch: list[Entry] = []
    keys: set[Key] = set()
    size = len(_HEAD) + 2
    for each in entries:
        full = len(batch) >= max_entries or size + len(each.body) + 1 > max_bytes
        if batch and (full or each.key in keys):
            yield batch
            batch, keys, size = [], set(), len(_HEAD) + 2
        batch.append(each)
        keys.add(each.key)
        size += len(each.body) + 1
    if batch:
        yield batch


def dumps(value: Any) -> bytes:
    """JSON as bytes, without white space."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


# -- The lists that the source and Medplum's users share


def token(name: str, item: Any) -> str:
    """What makes two entries of a shared list the same, as eight hexadecimal digits."""
    if isinstance(item, dict):
        parts = (item.get("system"), item.get("value"), item.get("code"), item.get("url"))
        if any(parts) and not [each for each in parts if each is not None and not isinstance(each, str)]:
            text = "\n".join([each or "" for each in parts])
        else:
            # An identifier without a value is told apart by all that it holds.
            text = json.dumps(parts if any(parts) else item, sort_keys=True)
    else:
        text = str(item)
    return _short(f"{name} {text}")


@lru_cache(maxsize=10_000)
def _short(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def _owned(resource: Json) -> set[str]:
    meta = resource.get("meta") or {}
    owned = {token(name, item) for name in ("identifier", "extension") for item in _listed(resource.get(name))}
    return owned | {token(name, item) for name in ("tag", "security") for item in _listed(meta.get(name))}


def _owned_before(resource: Json, key: Key) -> frozenset[str]:
    return frozenset((_notes(resource, key).get(OWNED_URL) or "").split())


def _with_local(wanted: Json, there: Json, names: Iterable[str], owned: frozenset[str]) -> Json:
    result = dict(wanted)
    for name in names:
        if name == "identifier" and not isinstance(wanted.get(name, []), list):
            continue
        mine = _listed(wanted.get(name))
        taken = {token(name, item) for item in mine} | owned
        local = [item for item in _listed(there.get(name)) if token(name, item) not in taken and not _ours(item)]
        if mine or local:
            result[name] = [*mine, *local]
    return result


def _ours(item: Any) -> bool:
    return isinstance(item, dict) and str(item.get("system", "")).startswith(f"{ROOT}/")


def _notes(resource: Json, key: Key) -> dict[str, str]:
    tags = (resource.get("meta") or {}).get("tag")
    marks = tags if key.type in KEYED_BY_TAG else resource.get("identifier")
    system = id_system(key.type)
    for mark in _listed(marks):
        if isinstance(mark, dict) and mark.get("system") == system and key.id in (mark.get("value"), mark.get("code")):
            return {
                str(each.get("url")): str(each.get("valueUri") or each.get("valueString") or "")
                for each in _listed(mark.get("extension"))
            }
    return {}


def _others(items: Any, system: str) -> list[Any]:
    return [each for each in _listed(items) if not _is_ours(each, system)]


def _is_ours(item: Any, system: str) -> bool:
    return isinstance(item, dict) and item.get("system") == system


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _cleaned(value: Any) -> Any:
    """Without what Medplum drops (empty text, lists and objects), and with storage links as the references they are."""
    if isinstance(value, dict):
        cleaned = {name: _cleaned(each) for name, each in value.items()}
        return {name: each for name, each in cleaned.items() if each not in (None, "", [], {})}
    if isinstance(value, list):
        items = [_cleaned(each) for each in value if not _is_version_note(each)]
        return [each for each in items if each not in (None, "", [], {})]
    if isinstance(value, str):
        stored = _STORAGE.fullmatch(value)
        return f"Binary/{stored[1]}" if stored else value
    return value


def _is_version_note(value: Any) -> bool:
    return isinstance(value, dict) and value.get("url") in (VERSION_URL, UPDATED_URL)
