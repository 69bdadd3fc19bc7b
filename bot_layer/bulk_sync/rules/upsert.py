"""What must be written so that Medplum matches the source: as little as possible, without overwriting edits by
accident.

The source owns its fields. What was added in Medplum to the lists that both share (identifiers, extensions, tags) is
kept: our marker on the resource says which of their entries came from the source.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson

from bot_layer.bulk_sync.rules.provenance import (
    CONTENT_DIGEST_URL,
    CONTENT_URL,
    SERVER_META,
    listed,
    owned_before,
    source_version,
    tagged,
    token,
)
from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.run_state import LocalEdit
from bot_layer.bulk_sync.rules.source_identity import ROOT, UPDATED_URL, VERSION_URL, lookup_query, stored_as
from bot_layer.bulk_sync.rules.time_stamps import instant, is_instant
from bot_layer.fhir.json import Json
from bot_layer.medplum.rules.batch_entries import Entry

Policy = Literal["source", "keep", "report"]

# A self-hosted server signs links under /storage/, Medplum's hosted service under /binary/.
_STORAGE: Final = re.compile(
    r"https?://[^/]+(?:/[^?]*)?/(?:storage|binary)/([A-Za-z0-9\-]+)(?:/[^?]*)?\?.*Signature=.*"
)


@dataclass(frozen=True, slots=True)
class Incoming:
    """A source resource in the form to store in Medplum, and the digest of what the source sent."""

    key: Key
    resource: Json
    digest: bytes = b""
    unresolved: frozenset[Key] = frozenset()


@dataclass(frozen=True)
class Found:
    """The resource in Medplum for a key. ``edited`` is True if its last version was not written by this sync."""

    id: str
    version: str
    resource: Json
    edited: bool = False


@dataclass(frozen=True, slots=True)
class Write:
    """One entry of a batch: a create (``id`` empty) or an update of a version."""

    incoming: Incoming
    resource: Json
    id: str = ""
    version: str = ""
    overwrites_edit: bool = False


@dataclass(frozen=True)
class Plan:
    """What to do with each incoming resource: each one is in exactly one list."""

    creates: tuple[Write, ...] = ()
    updates: tuple[Write, ...] = ()
    unchanged: tuple[tuple[Incoming, Found], ...] = ()
    kept: tuple[tuple[Incoming, Found], ...] = ()


def plan(
    found: Mapping[Key, Found],
    incoming: Iterable[Incoming],
    *,
    policy: Policy = "source",
    former: Mapping[Key, str] | None = None,
) -> Plan:
    """What to create, what to update and what to leave unchanged.

    ``found`` is what this source's sync has written before, and nothing else. An older version never replaces a newer
    one. A resource deleted in Medplum is restored with its ``former`` id, so that references to it stay valid.
    """
    creates: list[Write] = []
    updates: list[Write] = []
    unchanged: list[tuple[Incoming, Found]] = []
    kept: list[tuple[Incoming, Found]] = []
    for each in incoming:
        stored = found.get(each.key)
        if stored is None and former and each.key in former:
            again = tagged(each.resource, each.unresolved) | {"id": former[each.key]}
            updates.append(Write(each, again, former[each.key]))
        elif stored is None:
            creates.append(Write(each, tagged(each.resource, each.unresolved)))
        elif is_older(each.resource, stored.resource, each.key.type):
            unchanged.append((each, stored))
        else:
            wanted = merged(stored, each)
            if is_same(wanted, stored.resource):
                unchanged.append((each, stored))
            elif stored.edited and policy != "source":
                kept.append((each, stored))
            else:
                updates.append(Write(each, wanted, stored.id, stored.version, overwrites_edit=stored.edited))
    return Plan(tuple(creates), tuple(updates), tuple(unchanged), tuple(kept))


def is_older(incoming: Json, stored: Json, kind: str) -> bool:
    """True if Medplum has a later version according to the source's own time stamps (Meta.lastUpdated)."""
    now, before = source_version(incoming, kind)[1], source_version(stored, kind)[1]
    return is_instant(now) and is_instant(before) and instant(now) < instant(before)


def merged(stored: Found, incoming: Incoming) -> Json:
    """The source's fields, with Medplum's id and the entries that were added in Medplum to the shared lists."""
    wanted = tagged(incoming.resource, incoming.unresolved)
    owned = owned_before(stored.resource, incoming.key)
    body = _with_local(wanted, stored.resource, ("identifier", "extension"), owned)
    meta = _with_local(wanted["meta"], stored.resource.get("meta") or {}, ("tag", "security"), owned)
    return {**body, "id": stored.id, "meta": meta}


def edit_of(incoming: Incoming, stored: Found) -> LocalEdit:
    """Compare the resource in Medplum with what the source would write."""
    now, wanted = comparable(stored.resource), comparable(merged(stored, incoming))
    fields = sorted(name for name in {*now, *wanted} if now.get(name) != wanted.get(name))
    return LocalEdit(str(stored.resource["resourceType"]), stored.id, tuple(fields))


def content_of(found: Found) -> tuple[str, str]:
    """The id and the digest of the content that a Basic represents; empty if there is none."""
    extensions = {each.get("url"): each for each in listed(found.resource.get("extension"))}
    reference = (extensions.get(CONTENT_URL, {}).get("valueReference") or {}).get("reference", "")
    return str(reference).removeprefix("Binary/"), str(extensions.get(CONTENT_DIGEST_URL, {}).get("valueString", ""))


def target_id(key: Key, found: Found) -> str:
    """The id that a reference to this resource must name in Medplum."""
    return content_of(found)[0] if key.type == "Binary" else found.id


def is_same(wanted: Json, stored: Json) -> bool:
    """True if nothing that is compared differs."""
    # Most are equal as they are; to clean both costs much more.
    return _unversioned(wanted) == _unversioned(stored) or comparable(wanted) == comparable(stored)


def comparable(resource: Json) -> Json:
    """The parts of a resource that are compared: without server-set elements and the source's version number."""
    cleaned: Json = _cleaned(_unversioned(resource))
    return cleaned


def _unversioned(resource: Json) -> Json:
    meta = {name: value for name, value in (resource.get("meta") or {}).items() if name not in SERVER_META}
    return {**resource, "meta": meta}


def write_entry(write: Write, *, urn: str = "", guarded: bool = False, conditional: bool = False) -> Entry[Key]:
    """The write as an entry of a batch (https://hl7.org/fhir/R4/http.html#transaction).

    POST for a create, PUT with If-Match for an update. ``urn`` is the name by which other entries of the batch refer to
    a resource that is created with them. ``guarded`` creates only if the identifier is unused, for a retry after a lost
    answer. ``conditional``: a PUT by identifier, as in the integration's description.
    """
    key, resource = write.incoming.key, write.resource
    kind, query = stored_as(key.type), lookup_query(key.type, [key.id])
    creates = conditional or not write.id
    guarded = guarded and creates and not conditional
    request: Json = {"method": "POST", "url": kind}
    if conditional:
        request = {"method": "PUT", "url": f"{kind}?{query}"}
        resource = {name: value for name, value in resource.items() if name != "id"}
    elif write.id:
        request = {"method": "PUT", "url": f"{kind}/{write.id}"}
        if write.version:
            request["ifMatch"] = f'W/"{write.version}"'
    elif guarded:
        request["ifNoneExist"] = query
    entry = ({"fullUrl": urn} if urn else {}) | {"request": request, "resource": resource}
    return Entry(key, orjson.dumps(entry), creates, guarded)


def _with_local(wanted: Json, stored: Json, names: Iterable[str], owned: frozenset[str]) -> Json:
    result = dict(wanted)
    for name in names:
        if name == "identifier" and not isinstance(wanted.get(name, []), list):
            continue
        mine = listed(wanted.get(name))
        taken = {token(name, item) for item in mine} | owned
        local = [item for item in listed(stored.get(name)) if token(name, item) not in taken and not _ours(item)]
        if mine or local:
            result[name] = [*mine, *local]
    return result


def _ours(item: Any) -> bool:
    return isinstance(item, dict) and str(item.get("system", "")).startswith(f"{ROOT}/")


def _cleaned(value: Any) -> Any:
    """The value without what Medplum drops (empty text, lists and objects), and with storage links as references."""
    if isinstance(value, dict):
        cleaned = {name: _cleaned(each) for name, each in value.items()}
        return {name: each for name, each in cleaned.items() if each not in (None, "", [], {})}
    if isinstance(value, list):
        items = [_cleaned(each) for each in value if not _is_version_note(each)]
        return [each for each in items if each not in (None, "", [], {})]
    if isinstance(value, str):
        link = _STORAGE.fullmatch(value)
        return f"Binary/{link[1]}" if link else value
    return value


def _is_version_note(value: Any) -> bool:
    return isinstance(value, dict) and value.get("url") in (VERSION_URL, UPDATED_URL)
