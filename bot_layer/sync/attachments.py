"""The content behind a document's link: fetched with the source's token, checked, stored in Medplum, link rewritten."""

from __future__ import annotations

import base64
import hashlib
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Final

from bot_layer.clients.medplum_writer import MedplumWriter
from bot_layer.clients.practice_fusion import PracticeFusion
from bot_layer.core import references, upsert
from bot_layer.core.json import Json
from bot_layer.core.ndjson import Resource
from bot_layer.core.references import Key
from bot_layer.core.source_identity import ATTACHMENT_URL
from bot_layer.core.upsert import Found
from bot_layer.errors import AuthError, BotError, TransientError

# Where attachments stand in the types that the source exports.
PLACES: Final[Mapping[str, tuple[str, ...]]] = {
    "DocumentReference": ("content", "attachment"),
    "DiagnosticReport": ("presentedForm",),
    "Media": ("content",),
}
_MEMORY: Final = 1024 * 1024
_TRIES: Final = 5

KnownIds = Callable[[Iterable[Key]], dict[Key, str]]


class _Unusable(Exception):
    """The content is too large, or is not what its hash says."""


@dataclass
class Attachments:
    """Carries content from the source to Medplum. Safe to share between threads."""

    source: PracticeFusion
    medplum: MedplumWriter
    largest: int
    stored: int = 0
    failed: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def hold(self, resource: Resource) -> bool:
        """True where a resource may have content that is carried."""
        place = PLACES.get(resource.type)
        return place is not None and (resource.members is None or place[0] in resource.members.printed)

    def carry(self, resource: Json, found: Found | None, *, known: KnownIds) -> Json:
        """The resource with its links rewritten to Medplum; what Medplum has already is not fetched again."""
        place = PLACES.get(str(resource["resourceType"]))
        if place is None:
            return resource
        there = list(_attachments(upsert.comparable(found.resource), place)) if found else []
        owner = _patient(resource)

        def change(attachment: Json) -> Json:
            return self._carried(attachment, there, owner, known)

        changed: Json = _changed(resource, place, change)
        return changed

    def targets(self, resource: Json) -> set[Key]:
        """The resources of the source that attachments point to."""
        place = PLACES.get(str(resource["resourceType"]))
        links = [each.get("url") for each in _attachments(resource, place)] if place else []
        keys = (references.read_reference(each, self.source.settings.source) for each in links if isinstance(each, str))
        return {key for key in keys if key is not None}

    def _carried(self, attachment: Json, there: list[Json], owner: str, known: KnownIds) -> Json:
        url = attachment.get("url")
        if not isinstance(url, str) or not self._is_ours(url):
            return attachment
        exported = references.read_reference(url, self.source.settings.source)
        if exported is not None and exported in (ids := known([exported])):
            return attachment | {"url": f"{exported.type}/{ids[exported]}"}
        for each in there:
            if _same_content(each, attachment, url):
                return _linked(attachment, url, str(each["url"]))
        try:
            stored = self._store(attachment, url, owner)
        except (_Unusable, BotError) as fault:
            if isinstance(fault, AuthError) and fault.code.startswith("medplum"):
                raise
            with self._lock:
                self.failed += 1
            # The link stays, complete, so that it can be followed with the source's rights.
            return attachment | {"url": _absolute(url, self.source.settings.source)}
        with self._lock:
            self.stored += 1
        return _linked(attachment, url, f"Binary/{stored}")

    def _is_ours(self, url: str) -> bool:
        return references.read_reference(url, self.source.settings.source) is not None or url.startswith(
            self.source.settings.source + "/"
        )

    def _store(self, attachment: Json, url: str, owner: str) -> str:
        with tempfile.SpooledTemporaryFile(max_size=_MEMORY) as spool:
            kind = self._fetch(url, spool)
            _check(spool, attachment)
            return self.medplum.store_content(str(attachment.get("contentType") or kind), _Pieces(spool), owner=owner)

    def _fetch(self, url: str, spool: IO[bytes]) -> str:
        for attempt in range(1, _TRIES + 1):
            spool.seek(0)
            spool.truncate()
            try:
                return self._fetched(url, spool)
            except TransientError:
                if attempt == _TRIES:
                    raise
                self.source.wait(0.1 * 2.0**attempt)
        raise AssertionError("the last try returns or raises")

    def _fetched(self, url: str, spool: IO[bytes]) -> str:
        kind, chunks = self.source.files.content(url)
        size = 0
        for chunk in chunks:
            size += len(chunk)
            if size > self.largest:
                raise _Unusable
            spool.write(chunk)
        return kind


def stored_contents(resource: Json) -> list[str]:
    """The ids of the Binaries that the sync made for a resource's attachments."""
    place = PLACES.get(str(resource["resourceType"]))
    there = _attachments(upsert.comparable(resource), place) if place else ()
    urls = (str(each.get("url")) for each in there if _noted(each))
    return [url.removeprefix("Binary/") for url in urls if url.startswith("Binary/")]


def _check(spool: IO[bytes], attachment: Json) -> None:
    """Raise unless the content has the SHA-1 that the source states (https://hl7.org/fhir/R4/datatypes.html)."""
    stated = attachment.get("hash")
    if not isinstance(stated, str):
        return
    digest = hashlib.sha1(usedforsecurity=False)
    for piece in _Pieces(spool):
        digest.update(piece)
    if base64.b64encode(digest.digest()).decode() != stated:
        raise _Unusable


@dataclass(frozen=True)
class _Pieces:
    """The content in pieces, from its beginning each time it is asked for."""

    spool: IO[bytes]

    def __iter__(self) -> Iterator[bytes]:
        self.spool.seek(0)
        while piece := self.spool.read(256 * 1024):
            yield piece


def _linked(attachment: Json, url: str, target: str) -> Json:
    note = {"url": ATTACHMENT_URL, "valueUrl": url}
    others = [each for each in attachment.get("extension", []) if each.get("url") != ATTACHMENT_URL]
    return attachment | {"url": target, "extension": [*others, note]}


def _same_content(there: Json, attachment: Json, url: str) -> bool:
    same = all(there.get(name) == attachment.get(name) for name in ("hash", "size", "creation", "contentType"))
    return _noted(there) == [url] and same and str(there.get("url", "")).startswith("Binary/")


def _noted(attachment: Json) -> list[Any]:
    """The source's own addresses of what the sync stored."""
    return [each.get("valueUrl") for each in attachment.get("extension", []) if each.get("url") == ATTACHMENT_URL]


def _absolute(url: str, source: str) -> str:
    return url if url.startswith("http") else f"{source}/{url}"


def _patient(resource: Json) -> str:
    reference = str((resource.get("subject") or {}).get("reference") or "")
    return reference if reference.startswith("Patient/") else ""


def _attachments(value: Any, place: tuple[str, ...]) -> Iterator[Json]:
    if isinstance(value, list):
        for each in value:
            yield from _attachments(each, place)
    elif isinstance(value, dict):
        if not place:
            yield value
        elif place[0] in value:
            yield from _attachments(value[place[0]], place[1:])


def _changed(value: Any, place: tuple[str, ...], change: Callable[[Json], Json]) -> Any:
    if isinstance(value, list):
        return [_changed(each, place, change) for each in value]
    if not isinstance(value, dict):
        return value
    if not place:
        return change(value)
    return value | {place[0]: _changed(value[place[0]], place[1:], change)} if place[0] in value else value
