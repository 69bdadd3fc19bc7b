"""Medplum's data for a federated query: the patient with a registered id, the documents, and their bytes."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from cachetools import LRUCache

from bot_layer.errors import InputError, PermanentError, ReviewNeeded, TransientError
from bot_layer.federation.rules import document as federated_document
from bot_layer.federation.rules.document import Content, Rules, Source
from bot_layer.federation.rules.query import Query
from bot_layer.federation.rules.settings import Answering
from bot_layer.fhir.identifiers import HEALTH_GORILLA_SYSTEM, search_token
from bot_layer.fhir.json import Json, objects
from bot_layer.fhir.periods import in_force
from bot_layer.fhir.references import forms, is_id
from bot_layer.fhir.security_labels import exceeds, resource_labels
from bot_layer.medplum.binary import open_binary
from bot_layer.medplum.client import Medplum
from bot_layer.patient_registration.patients_in_medplum import PatientStore
from bot_layer.patient_registration.rules.index_patient import numbers, replaced_by

_MEDIA_TYPE = re.compile(r"[!-.0-~]+/[ -~]+")
_PAGES = frozenset({"text/html", "application/xhtml+xml"})
_MOST_MEASURED = 20_000
_MOST_SUMMARIES = 16


@dataclass(frozen=True)
class Found:
    """The patient with a requested id, and the Medplum Patients whose documents belong to that patient."""

    patient: Json = field(repr=False)
    references: tuple[str, ...] = field(repr=False)


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


@dataclass(frozen=True)
class FederatedSource:
    """One Medplum project as the network may see it."""

    server: Medplum
    answering: Answering
    most_documents: int = 2000
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC), repr=False)
    _measured: Kept = field(default_factory=lambda: Kept(_MOST_MEASURED), repr=False)
    _summaries: Kept = field(default_factory=lambda: Kept(_MOST_SUMMARIES), repr=False)

    @property
    def _rules(self) -> Rules:
        return replace(self.answering.rules, server=self.server.client.fhir_base_url)

    def asked_ids(self, query: Query) -> list[str]:
        """The registered ids of a query's patients; empty if no patient has the identifier or document.

        For a query with only document ids, these are the patients of those documents.
        """
        if query.patients:
            return list(query.patients)
        if query.identifiers:
            found = (each for asked in query.identifiers for each in self._ids_of(asked.system, asked.value))
            return list(dict.fromkeys(found))
        summarized = {each: federated_document.summarized_patient(each) for each in query.ids or ()}
        patients = [f"Patient/{patient}" for patient in summarized.values() if patient]
        stored = (self._stored(each) for each, patient in summarized.items() if not patient)
        subjects = [str((document.get("subject") or {}).get("reference")) for document in stored if document]
        return self._registered_ids([*patients, *subjects])

    def patient(self, asked_id: str) -> Found | None:
        """The patient who is registered with an id and may be disclosed, or None."""
        asked = self._asked(asked_id)
        now = self.now()
        if asked is None or not (self.answering.unregistered or numbers(asked, HEALTH_GORILLA_SYSTEM, now)):
            return None
        store = PatientStore(self.server, now)
        try:
            current = store.current(f"Patient/{asked['id']}") if _is_merged(asked) else asked
        except (InputError, ReviewNeeded):
            return None
        if current.get("active") is False:
            return None
        everyone = {f"Patient/{each['id']}": each for each in (current, asked, *store.merged_into(current))}
        # An error while reading labels and Consents does not count as permission.
        if store.denial(list(everyone.values()), self.answering.disclosure) is not None:
            return None
        return Found(current, tuple(everyone))

    def documents(self, found: Found, asked_id: str) -> list[Json]:
        """Every document of a patient that may be disclosed, in the form for the network."""
        held = self._held(found, self.most_documents + 1)
        if len(held) > self.most_documents:
            raise PermanentError(
                f"The patient has more than {self.most_documents} documents.",
                service="Medplum",
                method="GET",
                path="DocumentReference",
                code="answer-too-large",
            )
        leaving = [document for document in held if self._may_leave(document, found)]
        measured = [(document, self._contents(document)) for document in leaving]
        shown = [(document, contents) for document, contents in measured if any(contents)]
        summary = None if held else self._summary(found)
        if summary is not None:
            shown = [(summary, [self._summary_content(found.patient)])]
        return self._presented(shown, asked_id)

    def document(self, found: Found, document_id: str) -> Json | None:
        """One document of the patient that may be disclosed, as stored now; None for any other."""
        if federated_document.summarized_patient(document_id) is not None:
            summary = self._summary(found)
            is_meant = summary is not None and summary["id"] == document_id
            return summary if is_meant and not self._held(found, 1) else None
        stored = self._stored(document_id)
        return stored if stored is not None and self._may_leave(stored, found) else None

    def open(self, found: Found, document: Json, number: int) -> Opened | None:
        """The bytes of one content of a document, or None."""
        if federated_document.summarized_patient(document["id"]) is not None:
            return self._open_summary(found.patient) if number == 0 else None
        sources = federated_document.sources(document, self._rules.server)
        source = sources[number] if number < len(sources) else None
        if source is None:
            return None
        attachment = federated_document.attachments(document)[number]
        try:
            return self._open(source, attachment.get("contentType"))
        except InputError:
            return None

    def _held(self, found: Found, most: int) -> list[Json]:
        query = [
            ("subject", forms(found.references, self.server.client.fhir_base_url)),
            ("_count", str(min(most, 200))),
        ]
        return list(islice(self.server.search_all("DocumentReference", query), most))

    def _summary(self, found: Found) -> Json | None:
        """The generated summary document of the patient, if the settings allow one."""
        summary = federated_document.summary(found.patient)
        is_offered = self.answering.ccda and federated_document.is_open(summary, self._rules)
        return summary if is_offered else None

    def _asked(self, asked_id: str) -> Json | None:
        system = self.answering.identifier_system
        if system is None:
            return self.server.find(f"Patient/{asked_id}") if is_id(asked_id) else None
        return self._identified(system, asked_id)

    def _identified(self, system: str | None, value: str) -> Json | None:
        """The one patient with an identifier; a system of None matches any."""
        token = search_token(system, value) if system is not None else search_token("", value).removeprefix("|")
        hits = self.server.search("Patient", [("identifier", token), ("_count", "10")])
        carrying = [patient for patient in hits if _carries(patient, system, value, self.now())]
        # A merged record leads to the surviving one, which may have taken over its number.
        successors = {replaced_by(patient) for patient in carrying}
        first = [patient for patient in carrying if f"Patient/{patient['id']}" not in successors]
        # If two patients have one number, do not guess which one is meant.
        return first[0] if len(first) == 1 else None

    def _ids_of(self, system: str | None, value: str) -> list[str]:
        """The registered id of the patient with an identifier; the number itself if patients are registered with it."""
        asked, own_system = self._identified(system, value), self.answering.identifier_system
        if asked is not None and own_system and _carries(asked, own_system, value, self.now()):
            return [value]
        return self._registered_ids([f"Patient/{asked['id']}"] if asked else [])

    def _registered_ids(self, references: Iterable[str]) -> list[str]:
        """The ids with which Medplum Patients were registered, without duplicates."""
        ids = (self._registered_id(reference) for reference in dict.fromkeys(references))
        return list(dict.fromkeys(each for each in ids if each))

    def _registered_id(self, reference: str) -> str | None:
        resource_type, _, patient_id = reference.partition("/")
        if resource_type != "Patient" or not is_id(patient_id):
            return None
        system = self.answering.identifier_system
        if system is None:
            return patient_id
        patient = self.server.find(reference)
        own = numbers(patient, system, self.now()) if patient is not None else ()
        return next(iter(own), None)

    def _stored(self, document_id: str) -> Json | None:
        return self.server.find(f"DocumentReference/{document_id}") if is_id(document_id) else None

    def _may_leave(self, document: Json, found: Found) -> bool:
        subject = document.get("subject")
        is_theirs = isinstance(subject, dict) and subject.get("reference") in found.references
        return is_theirs and federated_document.may_leave(document, self._rules)

    def _contents(self, document: Json) -> list[Content | None]:
        sources = federated_document.sources(document, self._rules.server)
        held = federated_document.attachments(document)
        version = str((document.get("meta") or {}).get("versionId"))
        return [
            self._content(f"{document['id']}/{version}/{number}", source, attachment)
            for number, (source, attachment) in enumerate(zip(sources, held, strict=True))
        ]

    def _content(self, key: str, source: Source | None, attachment: Json) -> Content | None:
        """Type, size and hash: as stated, else measured once for each version; None if no bytes may be disclosed."""
        # Medplum's signed URL contains the Binary's version, which may be newer than the document's.
        key = f"{key}/{str(attachment.get('url', '')).partition('?')[0]}"
        if source is None or (source.binary and self._binary(source.binary) is None):
            return None
        known = federated_document.stated(attachment) or self._measured.get(key)
        if known is not None:
            return known
        try:
            opened = self._open(source, attachment.get("contentType"))
        except InputError:
            return None
        try:
            content = federated_document.measure(opened.chunks, opened.content_type)
        finally:
            opened.close()
        self._measured.put(key, content)
        return content

    def _binary(self, binary_id: str) -> Json | None:
        """The Binary of a document; None if there is none, or its own labels mark it as too confidential."""
        binary = self.server.find(f"Binary/{binary_id}") if is_id(binary_id) else None
        is_open = binary is not None and not exceeds(resource_labels(binary), self._rules.highest)
        return binary if is_open else None

    def _open(self, source: Source, content_type: str | None) -> Opened:
        # A content type stored in Medplum may not be a valid header.
        stated = content_type if content_type and _MEDIA_TYPE.fullmatch(content_type) else None
        if source.data is not None:
            return Opened(stated or "application/octet-stream", len(source.data), [source.data])
        binary = self._binary(str(source.binary))
        if binary is None:
            raise InputError("Medplum has no Binary/{id} that may leave.", code="not-found")
        stream = open_binary(self.server, str(source.binary))
        received = _media_type(stream.content_type)
        is_page = received in _PAGES and stated is not None and _media_type(stated) not in _PAGES
        kept = str(binary.get("contentType"))
        if is_page or (_MEDIA_TYPE.fullmatch(kept) and received != _media_type(kept)):
            # A gateway's HTML page with status 200 must not reach another network as the patient's document.
            stream.close()
            raise _unreadable("Binary/{id}")
        kind = stated or stream.content_type or "application/octet-stream"
        version = str((binary.get("meta") or {}).get("versionId", ""))
        return Opened(kind, stream.length, stream.chunks(), version, stream.close)

    def _presented(self, shown: list[tuple[Json, list[Content | None]]], asked_id: str) -> list[Json]:
        own = self.server.find(self.answering.organization) if self.answering.organization else None
        named = {ref for document, _ in shown for ref in federated_document.organization_references(document)}
        organizations = {ref: held for ref in sorted(named) if (held := self.server.find(ref)) is not None}
        return [
            federated_document.present(
                document,
                asked_id=asked_id,
                contents=contents,
                organizations=organizations,
                own=own,
                rules=self._rules,
            )
            for document, contents in shown
        ]

    def _summary_content(self, patient: Json) -> Content:
        """The content of a patient's C-CDA, with size and hash once it was generated for this version of the
        patient."""
        made: bytes | None = self._summaries.get(_version_key(patient))
        kind = "application/xml"
        return Content(kind) if made is None else federated_document.measure([made], kind)

    def _open_summary(self, patient: Json) -> Opened:
        key = _version_key(patient)
        made: bytes | None = self._summaries.get(key)
        if made is None:
            made = self.server.ccda(patient["id"])
            if b"ClinicalDocument" not in made:
                raise _unreadable("Patient/{id}/$ccda-export")
            self._summaries.put(key, made)
        # Each host requests its own C-CDA.
        return Opened("application/xml", len(made), [made], hashlib.sha256(made).hexdigest()[:16])


class Kept:
    """A thread-safe cache of the most recently used values."""

    def __init__(self, most: int) -> None:
        self._values: LRUCache[str, Any] = LRUCache(most)
        self._lock = threading.Lock()

    def get(self, key: str) -> Any:
        """The value, or None."""
        with self._lock:
            return self._values.get(key)

    def put(self, key: str, value: object) -> None:
        """Store a value; if the cache is full, the least recently used value is dropped."""
        with self._lock:
            self._values[key] = value


def _version_key(patient: Json) -> str:
    return f"{patient['id']}/{(patient.get('meta') or {}).get('versionId')}"


def _is_merged(patient: Json) -> bool:
    return replaced_by(patient) is not None


def _carries(patient: Json, system: str | None, value: str, now: datetime) -> bool:
    """Whether the number is the patient's own. One that is no longer valid may have belonged to another patient."""
    own = (each for each in objects(patient.get("identifier")) if in_force(each, now) or _is_merged(patient))
    return any(each.get("value") == value and system in (None, each.get("system")) for each in own)


def _media_type(content_type: object) -> str:
    """The media type without parameters, as Medplum stores and sends it."""
    return str(content_type or "").partition(";")[0].strip().lower()


def _unreadable(path: str) -> TransientError:
    text = "Medplum answered with a page instead of the document; try again later."
    return TransientError(text, service="Medplum", method="GET", path=path, code="unreadable-answer")
