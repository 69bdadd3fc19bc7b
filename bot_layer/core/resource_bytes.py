"""The same rewriting as in ``references`` and ``upsert``, on the bytes that the source printed.

A quote inside a JSON string is always escaped, so that ``"reference":"`` can only be a key. Where a source prints in
another way (white space, escapes), or bytes can't tell what is meant, the answer is None, and the parsed value is
worked on. What the source's meta says of version and time is left there: the server sets its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw

from bot_layer.core import upsert
from bot_layer.core.members import Members, read_meta
from bot_layer.core.references import Key, Known, read_reference
from bot_layer.core.source_identity import KEYED_BY_TAG, ROOT, UPDATED_URL, VERSION_URL, id_system

_REFERENCE: Final = b'"reference"'
_is_odd: Final = re.compile(rb'\\(?:[uU]00|"reference")').search
# No JSON holds it: it stands where a reference has no name in Medplum.
_MISSING: Final = b"\0"
# Where there is content that is fetched or stored, so that the value itself changes.
_HOLDING_CONTENT: Final = {
    "Binary": "resourceType",
    "DiagnosticReport": "presentedForm",
    "DocumentReference": "content",
    "Media": "content",
}
_print: Final = msgspec.json.encode


class Marked:
    """Resources that carry our mark already, and still the source's references."""

    def __init__(self, texts: Sequence[bytes]) -> None:
        head, *rest = b"\n".join(texts).split(_REFERENCE)
        ends = [each.find(b'"', 2) for each in rest]
        self._between = [head, *[each[end:] for each, end in zip(rest, ends, strict=True)]]
        self._references = [each[:end] for each, end in zip(rest, ends, strict=True)]
        self._number = len(texts)

    def keys(self, source: str) -> dict[bytes, Key | None]:
        """What each reference means, by its text."""
        return {text: _key(text, source) for text in set(self._references) if _is_plain(text)}

    def pointing(self, names: Mapping[bytes, bytes]) -> list[bytes | None]:
        """Each resource pointing into Medplum, in order; None where a reference has no name there."""
        parts = [b""] * (len(self._between) + len(self._references))
        parts[::2] = self._between
        parts[1::2] = [names.get(each, _MISSING) for each in self._references]
        texts = b"".join(parts).split(b"\n") if self._number else []
        return [None if _MISSING in each else each for each in texts]


def names_of(keys: Mapping[bytes, Key | None], known: Known) -> dict[bytes, bytes]:
    """Each reference as it is to be printed; without those whose target is missing."""
    found: dict[bytes, bytes] = {}
    for text, key in keys.items():
        if key is None:
            found[text] = _REFERENCE + text
        elif (target := known.get(key)) is not None:
            found[text] = f'"reference":"{key.type}/{target}'.encode()
    return found


def _is_plain(text: bytes) -> bool:
    """False for a reference that is no text, or is spelled with escapes."""
    return text.startswith(b':"') and b"\\" not in text


@lru_cache(maxsize=50_000)
def _key(text: bytes, source: str) -> Key | None:
    """Patients and clinicians are pointed to again and again."""
    return read_reference(text[2:].decode(), source)


# -- Our mark


def marked(text: bytes, key: Key, members: Members, source: str) -> bytes | None:
    """The resource without its id and with our mark, or None where only the value itself can be worked on."""
    kind, source_id = key.type, key.id.encode()
    # A letter that is written as an escape, so that a name may be; and a name that only ends like ours.
    if _is_odd(text) or (kind in _HOLDING_CONTENT and _HOLDING_CONTENT[kind] in members):
        return None
    meta_text = bytes(members.get("meta", b"{}"))
    meta = read_meta(meta_text)
    if meta is None or (meta.tag and kind in KEYED_BY_TAG):
        return None
    listed = bytes(members.get("identifier", b""))
    note = _owned(listed, bytes(members.get("extension", b"")), bytes(meta.tag), bytes(meta.security))
    if note is None:
        return None
    before, after, address = _frame(kind, source)
    version, updated = _noted(VERSION_URL, meta.version_id), _noted(UPDATED_URL, meta.last_updated)
    mark = b'%b%b"}%b%b%b%b%b"}' % (before, source_id, version, updated, note, after, source_id)
    about = [] if meta.source is not UNSET else [b'"source":"%b%b"' % (address, source_id)]
    body = members.copy()
    del body["id"]
    if kind in KEYED_BY_TAG:
        about.append(b'"tag":[%b]' % mark)
    else:
        body["identifier"] = Raw(_with(listed, mark))
    if about:
        body["meta"] = Raw(_with(meta_text, *about))
    return _print(body)


def _with(text: bytes, *more: bytes) -> bytes:
    """A printed list or object with more in it."""
    inner = text[1:-1].strip()
    start, end = (b"{", b"}") if text.startswith(b"{") else (b"[", b"]")
    return b"%b%b%b" % (start, b",".join((inner, *more) if inner else more), end)


@lru_cache(maxsize=500)
def _frame(kind: str, source: str) -> tuple[bytes, bytes, bytes]:
    """What stands before the source's id in the mark, what after, and the address of the type, as JSON."""
    address = upsert.dumps(f"{source}/{kind}/")[1:-1]
    name = "code" if kind in KEYED_BY_TAG else "value"
    before = b'{"extension":[{"url":"%b","valueUri":"%b' % (upsert.ORIGIN_URL.encode(), address)
    return before, f'],"system":"{id_system(kind)}","{name}":"'.encode(), address


def _noted(url: str, text: str) -> bytes:
    return b',{"url":"%b","valueString":%b}' % (url.encode(), _print(text)) if text else b""


@lru_cache(maxsize=2_000)
def _owned(*shared: bytes) -> bytes | None:
    """The note of which entries of the shared lists are the source's; None where bytes can't tell them apart."""
    owned: set[str] = set()
    for name, text in zip(("identifier", "extension", "tag", "security"), shared, strict=True):
        listed = msgspec.json.decode(text) if text else []
        if not isinstance(listed, list) or not all(_is_told(name, each) for each in listed):
            return None
        if name == "tag" and text and not listed:
            return None
        owned |= {upsert.token(name, each) for each in listed}
    return _noted(upsert.OWNED_URL, " ".join(sorted(owned)))


def _is_told(name: str, item: Any) -> bool:
    """False for an entry of our own, and for one that is told apart by all that it holds, its references too."""
    if not isinstance(item, dict) or str(item.get("system", "")).startswith(f"{ROOT}/"):
        return False
    return name in ("tag", "security") or bool(item.get("system") or item.get("value") or item.get("url"))
