"""The writes as entries of a batch (https://hl7.org/fhir/R4/http.html#transaction)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.source_identity import lookup_query, stored_as
from bot_layer.bulk_sync.rules.upsert import Write
from bot_layer.fhir.json import Json
from bot_layer.medplum.rules.batch_entries import Entry

Dumps = Callable[[Any], bytes]


def write_entry(write: Write, dumps: Dumps, *, urn: str = "", guarded: bool = False) -> Entry[Key]:
    """POST for a create, PUT with If-Match for an update.

    ``urn`` is the name by which other entries of the batch refer to a resource that is created with them. ``guarded``
    creates only if the identifier is unused, for a retry after a lost answer.
    """
    key, creates = write.incoming.key, not write.id
    kind = stored_as(key.type)
    request: Json = {"method": "POST", "url": kind} if creates else {"method": "PUT", "url": f"{kind}/{write.id}"}
    if write.id and write.version:
        request["ifMatch"] = f'W/"{write.version}"'
    if guarded and creates:
        request["ifNoneExist"] = lookup_query(key.type, [key.id])
    return _entry(key, request, write.resource, urn, dumps, creates=creates, guarded=guarded and creates)


def conditional_entry(write: Write, dumps: Dumps, *, urn: str = "") -> Entry[Key]:
    """A conditional PUT, as in the integration's description."""
    key = write.incoming.key
    request = {"method": "PUT", "url": f"{stored_as(key.type)}?{lookup_query(key.type, [key.id])}"}
    resource = {name: value for name, value in write.resource.items() if name != "id"}
    return _entry(key, request, resource, urn, dumps, creates=True, guarded=False)


def _entry(
    key: Key, request: Json, resource: Json, urn: str, dumps: Dumps, *, creates: bool, guarded: bool
) -> Entry[Key]:
    name = b'"fullUrl":%b,' % dumps(urn) if urn else b""
    return Entry(key, b'{%b"request":%b,"resource":%b}' % (name, dumps(request), dumps(resource)), creates, guarded)
