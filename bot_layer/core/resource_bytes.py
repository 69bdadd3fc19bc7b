"""The same rewriting as in ``references`` and ``upsert``, on the bytes that the source sent.

A quote inside a JSON string is always escaped, so that ``"reference":"`` can only be a key. Where the bytes are not
plainly what the parsed value says (white space, escapes, another order), there is no answer, and the caller works on
the parsed value instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from bot_layer.core.json import Json
from bot_layer.core.references import Key, Known, read_reference
from bot_layer.core.source_identity import KEYED_BY_TAG
from bot_layer.core.upsert import mark_of, meta_of

Dumps = Callable[[Any], bytes]

_REFERENCE: Final = re.compile(rb'"reference":"([^"\\]*)"')
# Their content is fetched or stored, so that the value itself changes.
_CHANGED: Final = KEYED_BY_TAG | {"Binary", "DocumentReference", "DiagnosticReport", "Media"}


class _Unknown(Exception):
    """A reference whose target is not in Medplum."""


def rewritten_bytes(raw: bytes, value: Json, known: Known, *, source: str, dumps: Dumps) -> bytes | None:
    """The resource as Medplum is to hold it, or None where the bytes can't be trusted or a target is missing."""
    kind, source_id = value["resourceType"], value["id"]
    head = b'{"resourceType":"%b","id":"%b"' % (kind.encode(), source_id.encode())
    if not raw.startswith(head) or raw[-1:] != b"}" or kind in _CHANGED or b"\\u" in raw:
        return None
    body = raw[len(head) :]
    if body.count(b'"reference"') != len(_REFERENCE.findall(body)):
        return None
    cuts = []
    for name in ("meta", "identifier"):
        if name in value:
            member = b',"%b":%b' % (name.encode(), dumps(value[name]))
            if body.count(member) != 1:
                return None
            cuts.append(member)
    for member in cuts:
        body = body.replace(member, b"")
    identifier, meta = mark_of(value, source), meta_of(value, source)

    def change(match: re.Match[bytes]) -> bytes:
        key = read_reference(match[1].decode(), source)
        if key is None:
            return match[0]
        if key not in known:
            raise _Unknown
        return b'"reference":"%b/%b"' % (key.type.encode(), known[key].encode())

    try:
        body = _REFERENCE.sub(change, body)
        start = _REFERENCE.sub(change, b'{"resourceType":"%b","identifier":%b' % (kind.encode(), dumps(identifier)))
    except _Unknown:
        return None
    return start + b',"meta":' + dumps(meta) + body


def targets_in_bytes(raw: bytes, source: str) -> frozenset[Key] | None:
    """The resources of the source that the bytes point to, or None where only parsing tells."""
    found = _REFERENCE.findall(raw)
    if raw.count(b'"reference"') != len(found) or b"\\u" in raw:
        return None
    keys = (read_reference(each.decode(), source) for each in found)
    return frozenset(key for key in keys if key is not None)
