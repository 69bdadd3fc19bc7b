"""A DocumentReference as another network may see it: Medplum's, completed with the clinic's organization.

Elements are copied by name, so that nothing internal is disclosed. An element that neither the resource nor the
configuration provides is omitted, never invented. https://hl7.org/fhir/R4/documentreference.html
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlencode

from bot_layer.fhir import security_labels
from bot_layer.fhir.json import Json, as_object, objects

_KEPT: Final = ("status", "docStatus", "type", "category", "relatesTo", "description", "securityLabel")
_KEPT_CONTEXT: Final = ("encounter", "event", "period", "facilityType", "practiceSetting")
_KEPT_ORGANIZATION: Final = ("resourceType", "identifier", "active", "type", "name", "telecom", "address")
_KEPT_ATTACHMENT: Final = ("contentType", "language", "title", "creation")
_STORED: Final = re.compile(r"/(?:binary|storage)/([A-Za-z0-9\-]{1,64})(?:/|$)")
_BINARY: Final = re.compile(r"Binary/([A-Za-z0-9\-]{1,64})(?:/|$)")
_SUMMARY: Final = "Summarization of episode note"
_CLINICAL_NOTE: Final = {
    "system": "http://hl7.org/fhir/us/core/CodeSystem/us-core-documentreference-category",
    "code": "clinical-note",
    "display": "Clinical Note",
}
_CCDA_PREFIX: Final = "ccda-"
# An arbitrary, fixed namespace: a patient's summary has the same UUID on every host.
_CCDA_NAMESPACE: Final = uuid.UUID("5b0c3a52-6f0e-4f7e-9d43-0f6f3c1d7a10")


@dataclass(frozen=True)
class Rules:
    """What may be disclosed. ``unlabelled`` is the confidentiality of documents without a label; with ``show_level``
    the answer contains it.

    ``document_url`` is a document's address with ``{id}``, to which query parameters are appended; ``server`` is
    Medplum's FHIR base URL with a trailing slash.
    """

    document_url: str
    highest: str = "N"
    unlabelled: str = "N"
    show_level: bool = False
    oid: str | None = None
    server: str = ""


@dataclass(frozen=True)
class Content:
    """The measured properties of one attachment: type, size, and the SHA-1 that FHIR R4 requires for
    Attachment.hash."""

    content_type: str | None = None
    size: int | None = None
    hash: str | None = None


@dataclass(frozen=True)
class Source:
    """Where the bytes of an attachment are: a Binary's id, or inline data."""

    binary: str | None = field(default=None, repr=False)
    data: bytes | None = field(default=None, repr=False)


def may_leave(document: Json, rules: Rules) -> bool:
    """Whether a document may be listed: current or superseded, not too confidential, and with content."""
    if "entered-in-error" in (document.get("status"), document.get("docStatus")):
        return False
    return is_open(document, rules) and any(sources(document, rules.server))


def is_open(document: Json, rules: Rules) -> bool:
    """Whether no label marks a document as too confidential; an unknown label counts as too confidential."""
    labels = security_labels.document_labels(document)
    return not security_labels.exceeds(labels, rules.highest, unlabelled=rules.unlabelled)


def sources(document: Json, server: str = "") -> list[Source | None]:
    """Where the bytes of each content are; None for one on another server, which is never fetched."""
    return [_source(attachment, server) for attachment in attachments(document)]


def measure(chunks: Iterable[bytes], content_type: str | None = None) -> Content:
    """Size and hash of bytes that arrive in chunks."""
    size, digest = 0, hashlib.sha1(usedforsecurity=False)
    for chunk in chunks:
        size += len(chunk)
        digest.update(chunk)
    return Content(content_type, size, base64.b64encode(digest.digest()).decode())


def stated(attachment: Json) -> Content | None:
    """The properties that the resource states for its attachment, if all are present and valid; else None."""
    size, digest, kind = (attachment.get(name) for name in ("size", "hash", "contentType"))
    # 20 bytes of SHA-1 are 28 characters of base64; other lengths mean other algorithms.
    right = isinstance(size, int) and isinstance(digest, str) and len(digest) == 28 and isinstance(kind, str)
    return Content(kind, size, digest) if right else None


def attachments(document: Json) -> tuple[Json, ...]:
    """The attachments of a document, one for each content."""
    return tuple(as_object(content.get("attachment")) for content in objects(document.get("content")))


def organization_references(document: Json) -> set[str]:
    """The Organizations of Medplum that a document names as author or custodian."""
    named = [*objects(document.get("author")), as_object(document.get("custodian"))]
    found = (str(reference.get("reference", "")) for reference in named)
    return {reference for reference in found if reference.startswith("Organization/")}


def present(
    document: Json,
    *,
    asked_id: str,
    contents: Sequence[Content | None],
    organizations: Mapping[str, Json],
    own: Json | None,
    rules: Rules,
) -> Json:
    """The DocumentReference for a query by ``asked_id``.

    ``organizations`` are Medplum's by reference; ``own``, the clinic's, is used if the document names none.
    """
    identifier = {"system": "urn:ietf:rfc:3986", "value": f"urn:uuid:{document['id']}"}
    own_oid = {"system": f"urn:oid:{rules.oid}", "value": document["id"]} if rules.oid else identifier
    named = {name: _organization(document.get(name), organizations) or own for name in ("author", "custodian")}
    references = {name: _reference(name, found) for name, found in named.items() if found}
    parts: Json = {
        "resourceType": "DocumentReference",
        "id": document["id"],
        "meta": _picked(document.get("meta"), ("versionId", "lastUpdated")),
        "contained": [{"id": name, **_picked(found, _KEPT_ORGANIZATION)} for name, found in named.items() if found],
        "masterIdentifier": document.get("masterIdentifier") or own_oid,
        "identifier": document.get("identifier") or [{"use": "usual", **identifier}],
        **_picked(document, _KEPT),
        "subject": {"reference": f"Patient/{asked_id}", "type": "Patient", "display": asked_id},
        "date": _date(document),
        "author": [references["author"]] if "author" in references else None,
        "custodian": references.get("custodian"),
        "content": _content(document, asked_id, contents, rules),
        "context": _picked(document.get("context"), _KEPT_CONTEXT),
    }
    level = security_labels.level(security_labels.document_labels(document))
    level = level or (rules.unlabelled if rules.show_level else None)
    if level and not parts.get("securityLabel"):
        parts["securityLabel"] = [{"coding": [{"system": security_labels.CONFIDENTIALITY_SYSTEM, "code": level}]}]
    return {name: value for name, value in parts.items() if value}


def summary(patient: Json) -> Json:
    """A document generated from a patient's data: a C-CDA, created when it is fetched.

    Its id is stable for the patient; its version and confidentiality are the patient's.
    """
    document_uuid = {"system": "urn:ietf:rfc:3986", "value": uuid.uuid5(_CCDA_NAMESPACE, patient["id"]).urn}
    return {
        "resourceType": "DocumentReference",
        "id": f"{_CCDA_PREFIX}{patient['id']}",
        "meta": patient.get("meta", {}),
        "status": "current",
        "type": {"coding": [{"system": "http://loinc.org", "code": "34133-9", "display": _SUMMARY}], "text": _SUMMARY},
        "category": [{"coding": [_CLINICAL_NOTE]}],
        "masterIdentifier": document_uuid,
        "identifier": [{"use": "usual", **document_uuid}],
        "content": [
            {
                "attachment": {"contentType": "application/xml"},
                "format": {
                    "system": "http://ihe.net/fhir/ValueSet/IHE.FormatCode.codesystem",
                    "code": "urn:hl7-org:sdwg:ccda-structuredBody:2.1",
                    "display": "For documents following C-CDA constraints using a structured body",
                },
            }
        ],
    }


def summarized_patient(document_id: str) -> str | None:
    """The patient id in a generated document's id, or None for a stored document's id."""
    return document_id.removeprefix(_CCDA_PREFIX) if document_id.startswith(_CCDA_PREFIX) else None


def _source(attachment: Json, server: str) -> Source | None:
    if isinstance(attachment.get("data"), str):
        try:
            return Source(data=base64.b64decode(attachment["data"], validate=True))
        except binascii.Error:
            return None
    address = re.split(r"[?#]", str(attachment.get("url", "")))[0]
    # The same id under another server's FHIR URL is different content.
    match = _BINARY.match(address.removeprefix(server)) or _STORED.search(address)
    return Source(binary=match[1]) if match else None


def _picked(element: object, names: Sequence[str]) -> Json:
    """The named parts of an element that have a value."""
    found = as_object(element)
    return {name: found[name] for name in names if found.get(name) not in (None, "", [], {})}


def _organization(references: object, organizations: Mapping[str, Json]) -> Json | None:
    """The first Organization that a Reference, or a list of them, names."""
    listed = objects(references if isinstance(references, list) else [references])
    found = (organizations.get(str(reference.get("reference", ""))) for reference in listed)
    return next(filter(None, found), None)


def _reference(local_id: str, organization: Json) -> Json:
    display = {"display": organization["name"]} if organization.get("name") else {}
    return {"reference": f"#{local_id}", "type": "Organization", **display}


def _date(document: Json) -> str | None:
    """When the reference was created: as stated, else when its content was, else when Medplum stored it."""
    created = [attachment.get("creation") for attachment in attachments(document)]
    candidates = [document.get("date"), *created, (document.get("meta") or {}).get("lastUpdated")]
    return next((str(date) for date in candidates if date), None)


def _content(document: Json, asked_id: str, contents: Sequence[Content | None], rules: Rules) -> list[Json]:
    shown: list[Json] = []
    for number, (content, known) in enumerate(zip(objects(document.get("content")), contents, strict=True)):
        if known is None:
            continue
        query = {"patient": asked_id, **({"content": str(number)} if number else {})}
        measured = {"contentType": known.content_type, "size": known.size, "hash": known.hash}
        attachment = {
            **_picked(content.get("attachment"), _KEPT_ATTACHMENT),
            "url": rules.document_url.format(id=document["id"]) + urlencode(query),
            **_picked(measured, tuple(measured)),
        }
        shown.append({"attachment": attachment, **_picked(content, ("format",))})
    return shown
