"""The same rewriting as in ``references`` and ``upsert``, on bytes: parsed once, printed once, references exchanged.

A quote inside a JSON string is always escaped, so that ``"reference":"`` can only be a key. What the source wrote in
another way (white space, escapes, another order of keys) is parsed anyway; what is searched here is what we printed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, NamedTuple

from bot_layer.core.json import Json
from bot_layer.core.references import Key, Known, read_reference
from bot_layer.core.upsert import SYNC_TAG, prepare

Dumps = Callable[[Any], bytes]

_REFERENCE: Final = b'"reference":"'
_TAG: Final = SYNC_TAG.encode()
# Where there is content that is fetched or stored, so that the value itself changes.
_CONTENT: Final = {
    "Binary": "resourceType",
    "DocumentReference": "content",
    "DiagnosticReport": "presentedForm",
    "Media": "content",
}


class Cut(NamedTuple):
    """A resource as Medplum is to hold it, printed and cut before each reference; and what each one points to."""

    pieces: list[bytes]
    keys: list[Key | None]


def cut(value: Json, *, source: str, dumps: Dumps) -> Cut | None:
    """The resource in pieces, or None where only the value itself can be worked on."""
    has_content = _CONTENT.get(value["resourceType"], "") in value
    if has_content or _anonymous(value.get("identifier")) or _anonymous(value.get("extension")):
        return None
    text = dumps(prepare(value, source))
    # A key that only ends like ours, and a tag of ours that the source sent: seldom, and left to the value.
    if b'\\"reference":"' in text or _TAG in text:
        return None
    pieces = text.split(_REFERENCE)
    return Cut(pieces, [_key(each[: each.index(b'"')], source) for each in pieces[1:]])


def joined(cut: Cut, known: Known) -> bytes | None:
    """The resource pointing into Medplum, or None where a target is missing."""
    head, *rest = cut.pieces
    out = [head]
    for piece, key in zip(rest, cut.keys, strict=True):
        if key is None:
            out.append(piece)
        elif (target := known.get(key)) is None:
            return None
        else:
            out.append(b"%b/%b%b" % (key.type.encode(), target.encode(), piece[piece.index(b'"') :]))
    return _REFERENCE.join(out)


@lru_cache(maxsize=50_000)
def _key(reference: bytes, source: str) -> Key | None:
    """Patients and clinicians are pointed to again and again."""
    return read_reference(reference.decode(), source)


def _anonymous(items: Any) -> bool:
    """True where an entry is told apart by all that it holds: a reference in it counts then."""
    return isinstance(items, list) and any(
        not (isinstance(each, dict) and (each.get("system") or each.get("value") or each.get("url"))) for each in items
    )
