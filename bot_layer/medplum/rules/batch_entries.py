"""The entries of a batch as bytes, and batches that a server takes (https://hl7.org/fhir/R4/http.html#transaction)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.source_identity import lookup_query, stored_as
from bot_layer.bulk_sync.rules.upsert import Write
from bot_layer.fhir.json import Json

Dumps = Callable[[Any], bytes]
_HEAD: Final = b'{"resourceType":"Bundle","type":"batch","entry":['


@dataclass(frozen=True, slots=True)
class Entry:
    """A batch entry as bytes, with the key that must not stand twice in one batch."""

    key: Key
    body: bytes
    write: Write | None = None


def entry(write: Write, dumps: Dumps, *, guarded: bool = False) -> Entry:
    """POST for a create, PUT with If-Match for an update. ``guarded`` creates only if the identifier is still free."""
    key = write.incoming.key
    kind = stored_as(key.type)
    request: Json = {"method": "PUT" if write.id else "POST", "url": f"{kind}/{write.id}" if write.id else kind}
    if write.id and write.version:
        request["ifMatch"] = f'W/"{write.version}"'
    if guarded and not write.id:
        request["ifNoneExist"] = lookup_query(key.type, [key.id])
    return Entry(key, b'{"request":%b,"resource":%b}' % (dumps(request), dumps(write.resource)), write)


def conditional_entry(write: Write, dumps: Dumps) -> Entry:
    """A conditional PUT, as the integration's description prints it."""
    key = write.incoming.key
    request = {"method": "PUT", "url": f"{stored_as(key.type)}?{lookup_query(key.type, [key.id])}"}
    resource = {name: value for name, value in write.resource.items() if name != "id"}
    return Entry(key, b'{"request":%b,"resource":%b}' % (dumps(request), dumps(resource)), write)


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
