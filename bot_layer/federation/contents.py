"""The bytes of a patient's documents in Medplum: measured for a list of documents, and opened to be sent."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from cachetools import LRUCache, cachedmethod

from bot_layer.errors import InputError, TransientError
from bot_layer.federation.rules.document import Content, Source, attachments, measure, sources, stated
from bot_layer.fhir.json import Json
from bot_layer.fhir.references import is_id
from bot_layer.fhir.security_labels import exceeds, resource_labels
from bot_layer.medplum.binary import open_binary
from bot_layer.medplum.client import Medplum

_MEDIA_TYPE = re.compile(r"[!-.0-~]+/[ -~]+")
_PAGES = frozenset({"text/html", "application/xhtml+xml"})
_UNKNOWN = "application/octet-stream"
_MOST_MEASURED = 20_000
_MOST_SUMMARIES = 16


@dataclass(frozen=True)
class Opened:
    """A document's bytes, ready to send. Always close it, even if not all bytes were read.

    ``version`` identifies the bytes in addition to the document's version: the Binary's version, or a digest.
    """

    content_type: str
    length: int | None
    chunks: Iterable[bytes] = field(repr=False)
    version: str = ""
    close: Callable[[], None] = field(default=lambda: None, repr=False)


class Contents:
    """The bytes that may be disclosed: a Binary whose own labels exceed ``highest`` is never opened."""

    def __init__(self, server: Medplum, highest: str) -> None:
        self._server = server
        self._highest = highest
        self._lock = threading.Lock()
        self._measured: LRUCache[str, Content] = LRUCache(_MOST_MEASURED)
        self._summaries: LRUCache[str, bytes] = LRUCache(_MOST_SUMMARIES)

    def of(self, document: Json) -> list[Content | None]:
        """Type, size and hash of each content: as stated, else measured once for each version; None if no bytes may be
        disclosed."""
        found: list[Content | None] = []
        version = (document.get("meta") or {}).get("versionId")
        places = sources(document, self._server.client.fhir_base_url)
        for number, (source, attachment) in enumerate(zip(places, attachments(document), strict=True)):
            # Medplum's signed URL contains the Binary's version, which may be newer than the document's.
            url = str(attachment.get("url", "")).partition("?")[0]
            if source is None or (source.binary and self._binary(source.binary) is None):
                found.append(None)
                continue
            try:
                key = f"{document['id']}/{version}/{number}/{url}"
                found.append(stated(attachment) or self._measure(key, source, attachment.get("contentType")))
            except InputError:
                found.append(None)
        return found

    @cachedmethod(lambda self: self._measured, key=lambda _self, key, *_: key, lock=lambda self: self._lock)
    def _measure(self, _key: str, source: Source, content_type: str | None) -> Content:
        opened = self._open(source, content_type)
        try:
            return measure(opened.chunks, opened.content_type)
        finally:
            opened.close()

    def open(self, document: Json, number: int) -> Opened | None:
        """The bytes of one content of a document, or None."""
        places = sources(document, self._server.client.fhir_base_url)
        source = places[number] if number < len(places) else None
        try:
            return self._open(source, attachments(document)[number].get("contentType")) if source else None
        except InputError:
            return None

    def _binary(self, binary_id: str) -> Json | None:
        """The Binary of a document; None if there is none, or its own labels mark it as too confidential."""
        binary = self._server.find(f"Binary/{binary_id}") if is_id(binary_id) else None
        return None if binary is None or exceeds(resource_labels(binary), self._highest) else binary

    def _open(self, source: Source, content_type: str | None) -> Opened:
        # A content type stored in Medplum may not be a valid header.
        known = content_type if content_type and _MEDIA_TYPE.fullmatch(content_type) else None
        if source.data is not None:
            return Opened(known or _UNKNOWN, len(source.data), [source.data])
        binary = self._binary(str(source.binary))
        if binary is None:
            raise InputError("Medplum has no Binary/{id} that may leave.", code="not-found")
        stream = open_binary(self._server, str(source.binary))
        received = _media_type(stream.content_type)
        is_page = received in _PAGES and known is not None and _media_type(known) not in _PAGES
        kept = str(binary.get("contentType"))
        if is_page or (_MEDIA_TYPE.fullmatch(kept) and received != _media_type(kept)):
            # A gateway's HTML page with status 200 must not reach another network as the patient's document.
            stream.close()
            raise _unreadable("Binary/{id}")
        version = str((binary.get("meta") or {}).get("versionId", ""))
        kind = known or stream.content_type or _UNKNOWN
        return Opened(kind, stream.length, stream.chunks(), version, stream.close)

    def of_summary(self, patient: Json) -> Content:
        """The content of a patient's C-CDA, with size and hash once this version of the patient was summarized."""
        with self._lock:
            made = self._summaries.get(_version_key(patient))
        kind = "application/xml"
        return Content(kind) if made is None else measure([made], kind)

    def open_summary(self, patient: Json) -> Opened:
        """The C-CDA of this version of a patient. Each host requests its own."""
        made = self._summarize(patient)
        return Opened("application/xml", len(made), [made], hashlib.sha256(made).hexdigest()[:16])

    @cachedmethod(
        lambda self: self._summaries,
        key=lambda _self, patient: _version_key(patient),
        lock=lambda self: self._lock,
    )
    def _summarize(self, patient: Json) -> bytes:
        made = self._server.ccda(patient["id"])
        if b"ClinicalDocument" not in made:
            raise _unreadable("Patient/{id}/$ccda-export")
        return made


def _version_key(patient: Json) -> str:
    return f"{patient['id']}/{(patient.get('meta') or {}).get('versionId')}"


def _media_type(content_type: object) -> str:
    """The media type without parameters, as Medplum stores and sends it."""
    return str(content_type or "").partition(";")[0].strip().lower()


def _unreadable(path: str) -> TransientError:
    text = "Medplum answered with a page instead of the document; try again later."
    return TransientError(text, service="Medplum", method="GET", path=path, code="unreadable-answer")
