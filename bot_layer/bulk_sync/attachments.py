"""The content behind a document's link: fetched with the source's token, checked, stored in Medplum, link rewritten."""

from __future__ import annotations

import base64
import hashlib
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Final

from bot_layer.bulk_sync.rules import provenance as source_mark
from bot_layer.bulk_sync.rules import references, upsert
from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.source_identity import ATTACHMENT_DIGEST_URL, ATTACHMENT_URL
from bot_layer.bulk_sync.rules.upsert import Found
from bot_layer.bulk_sync.source.client import PracticeFusion
from bot_layer.bulk_sync.state.task_store import LeaseLost
from bot_layer.bulk_sync.target.writer import MedplumWriter
from bot_layer.errors import AuthError, BotError, TransientError
from bot_layer.fhir.json import Json

# Where attachments stand in the types that the source exports.
PLACES: Final[Mapping[str, tuple[str, ...]]] = {
    "DocumentReference": ("content", "attachment"),
    "DiagnosticReport": ("presentedForm",),
    "Media": ("content",),
}
_MEMORY: Final = 1024 * 1024
_TRIES: Final = 5
_NOTES: Final = (ATTACHMENT_URL, ATTACHMENT_DIGEST_URL)

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

    def carry(
        self, resource: Json, found: Found | None, *, owner: str, known: KnownIds, missed: Callable[[], None]
    ) -> Json:
        """The resource with its links rewritten to Medplum; what Medplum has already is not fetched again.

        ``owner`` is the Patient in Medplum to whom the content belongs.
        ``missed`` is called where a link stays for now, because the content could not be had at this moment.
        """
        place = PLACES.get(str(resource["resourceType"]))
        if place is None:
            return resource
        there = list(_attachments(upsert.comparable(found.resource), place)) if found else []
        # Content may be another one behind the same link: a hash tells, or that the source changed nothing at all.
        kind = str(resource["resourceType"])
        same = found is not None and (
            source_mark.source_version(found.resource, kind) == source_mark.source_version(resource, kind)
        )

        def change(attachment: Json) -> Json:
            likely = [each for each in there if _may_hold(each, attachment)]
            sure = likely if same or attachment.get("hash") else []
            try:
                return self._carried(attachment, sure, likely, owner, known)
            except TransientError as fault:
                if isinstance(fault, LeaseLost):
                    raise
                missed()
                return self._left(attachment)

        changed: Json = _changed(resource, place, change)
        return changed

    def targets(self, resource: Json) -> set[Key]:
        """The resources of the source that attachments point to."""
        place = PLACES.get(str(resource["resourceType"]))
        links = [each.get("url") for each in _attachments(resource, place)] if place else []
        keys = (references.read_reference(each, self.source.settings.source) for each in links if isinstance(each, str))
        return {key for key in keys if key is not None}

    def _carried(self, attachment: Json, sure: list[Json], likely: list[Json], owner: str, known: KnownIds) -> Json:
        url = attachment.get("url")
        if not isinstance(url, str) or not self._is_ours(url):
            return attachment
        exported = references.read_reference(url, self.source.settings.source)
        if exported is not None and exported in (ids := known([exported])):
            return attachment | {"url": f"{exported.type}/{ids[exported]}"}
        if sure:
            return _linked(attachment, url, str(sure[0]["url"]), _digest(sure[0]))
        try:
            target, digest = self._store(attachment, url, likely, owner)
        except (_Unusable, BotError) as fault:
            refused = isinstance(fault, AuthError) and fault.code.startswith("medplum")
            if refused or isinstance(fault, TransientError):
                raise
            return self._left(attachment)
        with self._lock:
            self.stored += 1
        return _linked(attachment, url, target, digest)

    def _left(self, attachment: Json) -> Json:
        """The link stays, complete, so that it can be followed with the source's rights."""
        with self._lock:
            self.failed += 1
        return attachment | {"url": _absolute(str(attachment["url"]), self.source.settings.source)}

    def _is_ours(self, url: str) -> bool:
        return references.read_reference(url, self.source.settings.source) is not None or url.startswith(
            self.source.settings.source + "/"
        )

    def _store(self, attachment: Json, url: str, likely: list[Json], owner: str) -> tuple[str, str]:
        """Where the content is in Medplum, and its digest: stored now, unless it is what is there already."""
        with tempfile.SpooledTemporaryFile(max_size=_MEMORY) as spool:
            kind = self._fetch(url, spool)
            digest = _check(spool, attachment)
            for each in likely:
                if _digest(each) == digest:
                    return str(each["url"]), digest
            kind = str(attachment.get("contentType") or kind)
            return f"Binary/{self.medplum.store_content(kind, _Pieces(spool), owner=owner)}", digest

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


def _check(spool: IO[bytes], attachment: Json) -> str:
    """The SHA-1 of the content, if it is the one that the source states (https://hl7.org/fhir/R4/datatypes.html)."""
    digest = hashlib.sha1(usedforsecurity=False)
    for piece in _Pieces(spool):
        digest.update(piece)
    found = base64.b64encode(digest.digest()).decode()
    stated = attachment.get("hash")
    if isinstance(stated, str) and found != stated:
        raise _Unusable
    return found


@dataclass(frozen=True)
class _Pieces:
    """The content in pieces, from its beginning each time it is asked for."""

    spool: IO[bytes]

    def __iter__(self) -> Iterator[bytes]:
        self.spool.seek(0)
        while piece := self.spool.read(256 * 1024):
            yield piece


def _linked(attachment: Json, url: str, target: str, digest: str) -> Json:
    notes = [{"url": ATTACHMENT_URL, "valueUrl": url}]
    if digest:
        notes.append({"url": ATTACHMENT_DIGEST_URL, "valueString": digest})
    others = [each for each in attachment.get("extension", []) if each.get("url") not in _NOTES]
    return attachment | {"url": target, "extension": [*others, *notes]}


def _may_hold(there: Json, attachment: Json) -> bool:
    """True where what stands in Medplum came from the same link, and nothing that is said of it differs."""
    same = all(there.get(name) == attachment.get(name) for name in ("hash", "size", "creation", "contentType"))
    return _noted(there) == [attachment.get("url")] and same and str(there.get("url", "")).startswith("Binary/")


def _digest(attachment: Json) -> str:
    notes = (each for each in attachment.get("extension", []) if each.get("url") == ATTACHMENT_DIGEST_URL)
    return next((str(each.get("valueString")) for each in notes), "")


def _noted(attachment: Json) -> list[Any]:
    """The source's own addresses of what the sync stored."""
    return [each.get("valueUrl") for each in attachment.get("extension", []) if each.get("url") == ATTACHMENT_URL]


def _absolute(url: str, source: str) -> str:
    return url if url.startswith("http") else f"{source}/{url}"


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
