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
from bot_layer.bulk_sync.rules.source_identity import ROOT, UPDATED_URL, VERSION_URL
from bot_layer.bulk_sync.rules.time_stamps import instant, is_instant
from bot_layer.fhir.json import Json

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
        there = found.get(each.key)
        if there is None and former and each.key in former:
            again = tagged(each.resource, each.unresolved) | {"id": former[each.key]}
            updates.append(Write(each, again, former[each.key]))
        elif there is None:
            creates.append(Write(each, tagged(each.resource, each.unresolved)))
        elif is_older(each.resource, there.resource, each.key.type):
            unchanged.append((each, there))
        else:
            wanted = merged(there, each)
            if comparable(wanted) == comparable(there.resource):
                unchanged.append((each, there))
            elif there.edited and policy != "source":
                kept.append((each, there))
            else:
                updates.append(Write(each, wanted, there.id, there.version, overwrites_edit=there.edited))
    return Plan(tuple(creates), tuple(updates), tuple(unchanged), tuple(kept))


def is_older(incoming: Json, there: Json, kind: str) -> bool:
    """True if Medplum has a later version according to the source's own time stamps (Meta.lastUpdated)."""
    now, before = source_version(incoming, kind)[1], source_version(there, kind)[1]
    return is_instant(now) and is_instant(before) and instant(now) < instant(before)


def merged(there: Found, incoming: Incoming) -> Json:
    """The source's fields, with Medplum's id and the entries that were added in Medplum to the shared lists."""
    wanted = tagged(incoming.resource, incoming.unresolved)
    owned = owned_before(there.resource, incoming.key)
    body = _with_local(wanted, there.resource, ("identifier", "extension"), owned)
    meta = _with_local(wanted["meta"], there.resource.get("meta") or {}, ("tag", "security"), owned)
    return {**body, "id": there.id, "meta": meta}


def content_of(found: Found) -> tuple[str, str]:
    """The id and the digest of the content that a Basic represents; empty if there is none."""
    extensions = {each.get("url"): each for each in listed(found.resource.get("extension"))}
    reference = (extensions.get(CONTENT_URL, {}).get("valueReference") or {}).get("reference", "")
    return str(reference).removeprefix("Binary/"), str(extensions.get(CONTENT_DIGEST_URL, {}).get("valueString", ""))


def target_id(key: Key, found: Found) -> str:
    """The id that a reference to this resource must name in Medplum."""
    return content_of(found)[0] if key.type == "Binary" else found.id


def comparable(resource: Json) -> Json:
    """The parts of a resource that are compared: without server-set elements and the source's version number."""
    meta = {name: value for name, value in (resource.get("meta") or {}).items() if name not in SERVER_META}
    cleaned: Json = _cleaned({**resource, "meta": meta})
    return cleaned


def _with_local(wanted: Json, there: Json, names: Iterable[str], owned: frozenset[str]) -> Json:
    result = dict(wanted)
    for name in names:
        if name == "identifier" and not isinstance(wanted.get(name, []), list):
            continue
        mine = listed(wanted.get(name))
        taken = {token(name, item) for item in mine} | owned
        local = [item for item in listed(there.get(name)) if token(name, item) not in taken and not _ours(item)]
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
        stored = _STORAGE.fullmatch(value)
        return f"Binary/{stored[1]}" if stored else value
    return value


def _is_version_note(value: Any) -> bool:
    return isinstance(value, dict) and value.get("url") in (VERSION_URL, UPDATED_URL)
