"""Our marker on a resource: its source, its version, and which entries of shared lists the source owns.

It is stored with the source's own identifiers, or tags, and the sync finds the resource by it.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import Any, Final

from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.source_identity import (
    KEYED_BY_TAG,
    ORIGIN_URL,
    ROOT,
    UPDATED_URL,
    VERSION_URL,
    id_system,
    markers,
    source_id_of,
)
from bot_layer.fhir.json import Json, objects

OWNED_URL: Final = f"{ROOT}/source-entries"
CONTENT_URL: Final = f"{ROOT}/content"
CONTENT_DIGEST_URL: Final = f"{ROOT}/content-digest"
SYNC_TAG: Final = f"{ROOT}/sync"
UNRESOLVED_TAG: Final[Json] = {"system": SYNC_TAG, "code": "unresolved-reference"}
# Set by Medplum on every version.
SERVER_META: Final = (
    *("versionId", "lastUpdated", "author", "onBehalfOf"),
    *("project", "compartment", "account", "accounts"),
)


def digest_of(raw: bytes) -> bytes:
    """A short digest of what the source sent: equal digests mean the same bytes. It is not for security."""
    return hashlib.blake2b(raw, digest_size=16).digest()


def prepare(resource: Json, source: str) -> Json:
    """The resource to store in Medplum, still with the source's references: without id, and with our marker.

    It has the source's meta without server-set elements, and the resource's URL as meta.source if it has none.
    """
    key = Key(str(resource["resourceType"]), str(resource["id"]))
    body = {name: value for name, value in resource.items() if name not in ("id", "meta")}
    meta = {name: value for name, value in (resource.get("meta") or {}).items() if name not in SERVER_META}
    if key.type in KEYED_BY_TAG:
        meta["tag"] = _marked(meta.get("tag"), resource, key, source)
    else:
        body["identifier"] = _marked(resource.get("identifier"), resource, key, source)
    meta.setdefault("source", f"{source}/{key.type}/{key.id}")
    return {**body, "meta": meta}


def _marked(entries: Any, resource: Json, key: Key, source: str) -> list[Any]:
    """The source's own identifiers (or tags), and the marker by which the sync finds the resource."""
    meta, system = resource.get("meta") or {}, id_system(key.type)
    notes = [{"url": ORIGIN_URL, "valueUri": f"{source}/{key.type}/{key.id}"}]
    owned = " ".join(sorted(_owned(resource)))
    for url, text in ((VERSION_URL, meta.get("versionId")), (UPDATED_URL, meta.get("lastUpdated")), (OWNED_URL, owned)):
        if text:
            notes.append({"url": url, "valueString": str(text)})
    name = "code" if key.type in KEYED_BY_TAG else "value"
    marker = {"extension": notes, "system": system, name: key.id}
    return [*(each for each in listed(entries) if not _is_ours(each, system)), marker]


def prepare_binary(resource: Json, source: str, *, content_id: str, digest: str) -> Json:
    """The Basic that represents a Binary of the source: it can be searched, and refers to the content in Medplum."""
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


def tagged(resource: Json, unresolved: frozenset[Key]) -> Json:
    """The resource with a searchable tag while one of its references is pending, and without it afterwards."""
    meta = resource.get("meta") or {}
    tags = [each for each in listed(meta.get("tag")) if not _is_ours(each, SYNC_TAG)]
    if unresolved:
        tags.append(UNRESOLVED_TAG)
    rest = {name: value for name, value in meta.items() if name != "tag"}
    return {**resource, "meta": rest | ({"tag": tags} if tags else {})}


def imported_key(resource: Json, kind: str, source: str) -> Key | None:
    """The source resource that this source's sync stored as this one, or None if it did not write it.

    ``kind`` is the type at the source: another practice may have the same ids.
    """
    source_id = source_id_of(resource, kind)
    key = Key(kind, source_id or "")
    return key if source_id and imported_from(resource, key, source) else None


def imported_from(resource: Json, key: Key, source: str) -> bool:
    """True if this source's sync wrote the resource: only such resources are updated or deleted."""
    notes = _notes(resource, key)
    origin = notes.get(ORIGIN_URL)
    # A marker without a URL is from an older sync, or was made by hand as in the integration's description.
    return origin is None or origin == f"{source}/{key.type}/{key.id}"


def source_version(resource: Json, kind: str) -> tuple[str, str]:
    """The source's version of a resource and its time, from our marker. ``kind`` is the type at the source."""
    notes = _notes(resource, Key(kind, source_id_of(resource, kind) or ""))
    return notes.get(VERSION_URL, ""), notes.get(UPDATED_URL, "")


# -- The lists that the source and Medplum's users share


def token(name: str, item: Any) -> str:
    """The identity of an entry in a shared list, as eight hexadecimal digits."""
    if not isinstance(item, dict):
        return _short(f"{name} {item}")
    parts = [item.get(each) for each in ("system", "value", "code", "url")]
    if any(parts) and all(each is None or isinstance(each, str) for each in parts):
        return _short(f"{name} " + "\n".join(each or "" for each in parts))
    # An identifier without a value is identified by its whole content.
    return _short(f"{name} {json.dumps(parts if any(parts) else item, sort_keys=True)}")


@lru_cache(maxsize=10_000)
def _short(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def _owned(resource: Json) -> set[str]:
    meta = resource.get("meta") or {}
    owned = {token(name, item) for name in ("identifier", "extension") for item in listed(resource.get(name))}
    return owned | {token(name, item) for name in ("tag", "security") for item in listed(meta.get(name))}


def owned_before(resource: Json, key: Key) -> frozenset[str]:
    return frozenset((_notes(resource, key).get(OWNED_URL) or "").split())


def _notes(resource: Json, key: Key) -> dict[str, str]:
    extensions = objects(markers(resource, key.type).get(key.id, {}).get("extension"))
    return {str(each.get("url")): str(each.get("valueUri") or each.get("valueString") or "") for each in extensions}


def _is_ours(item: Any, system: str) -> bool:
    return isinstance(item, dict) and item.get("system") == system


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
