"""One patient's chart: who, when, and what was found; the other half is in treatment.py."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator

from medplum_sandbox.json import Json
from medplum_sandbox.practice_fusion import treatment
from medplum_sandbox.practice_fusion.case import Case
from medplum_sandbox.practice_fusion.make import (
    ACCESSION_SYSTEM,
    CITIES,
    FAMILIES,
    GIVEN,
    LOINC,
    MRN_SYSTEM,
    SNOMED,
    TERMS,
)

_VITALS = (("8480-6", "Systolic", "mm[Hg]"), ("8462-4", "Diastolic", "mm[Hg]"), ("8867-4", "Heart rate", "/min"))
_LABS = (("2345-7", "Glucose", "mg/dL"), ("4548-4", "Hemoglobin A1c", "%"))


def resources(case: Case) -> Iterator[Json]:
    """The whole chart. Some resources come before those they refer to."""
    yield from (_patient(case), _related_person(case), _coverage(case))
    yield from (_encounter(case, "encounter", None), _encounter(case, "visit-2", "encounter"))
    yield from (_condition(case, "condition"), _condition(case, "condition-2"))
    yield from _vitals(case)
    yield from _labs(case)
    yield from _documents(case)
    yield from treatment.resources(case)


def _patient(case: Case) -> Json:
    make = case.make
    return {
        "resourceType": "Patient",
        "id": case.patient,
        "identifier": [
            {
                "use": "usual",
                "type": {"coding": [{"system": f"{TERMS}/v2-0203", "code": "MR"}]},
                "system": MRN_SYSTEM,
                "value": case.mrn,
            }
        ],
        "active": True,
        "name": [{"use": "official", "family": make.one(FAMILIES), "given": [make.one(GIVEN)]}],
        "gender": make.one(("male", "female", "other", "unknown")),
        "birthDate": f"{1930 + make.random.randrange(90)}-0{1 + make.random.randrange(9)}-15",
        "address": [{"line": ["1 Example \\ Street"], "city": make.one(CITIES), "postalCode": make.digits(5)}],
        "generalPractitioner": [case.doctor()],
        "managingOrganization": make.ref("Organization", case.office.organization),
        "link": [{"other": make.ref("Patient", case.other), "type": "seealso"}],
    }


def _related_person(case: Case) -> Json:
    return {
        "resourceType": "RelatedPerson",
        "id": case.id("relative"),
        "patient": case.me(),
        "relationship": [case.make.code(f"{TERMS}/v3-RoleCode", "SPS", "spouse")],
        "name": [{"family": case.make.one(FAMILIES), "given": [case.make.one(GIVEN)]}],
    }


def _coverage(case: Case) -> Json:
    return {
        "resourceType": "Coverage",
        "id": case.id("coverage"),
        # The payer uses the practice's own record number: the value is shared, the thing is another.
        "identifier": [{"system": MRN_SYSTEM, "value": case.mrn}],
        "status": "active",
        "subscriber": case.make.ref("RelatedPerson", case.id("relative")),
        "beneficiary": case.me(),
        "payor": [case.make.ref("Organization", case.office.organization)],
    }


def _encounter(case: Case, name: str, part_of: str | None) -> Json:
    make, start = case.make, case.make.moment()
    resource: Json = {
        "resourceType": "Encounter",
        "id": case.id(name),
        "status": "finished",
        "class": {"system": f"{TERMS}/v3-ActCode", "code": "AMB"},
        "type": [make.code(SNOMED, "185349003", "Encounter for check up")],
        "subject": case.me(),
        "participant": [{"individual": case.doctor()}],
        "period": {"start": start, "end": start},
        "diagnosis": [{"condition": make.ref("Condition", case.id("condition"))}],
        "location": [{"location": make.ref("Location", make.one(case.office.locations))}],
        "serviceProvider": make.ref("Organization", case.office.organization),
    }
    if part_of is not None:
        resource["partOf"] = make.ref("Encounter", case.id(part_of))
    return resource


def _condition(case: Case, name: str) -> Json:
    make = case.make
    return {
        "resourceType": "Condition",
        "id": case.id(name),
        "clinicalStatus": {"coding": [{"system": f"{TERMS}/condition-clinical", "code": "active"}]},
        "category": [make.code(f"{TERMS}/condition-category", "encounter-diagnosis", "Encounter Diagnosis")],
        "code": make.code(SNOMED, "38341003", "Hypertensive disorder"),
        "subject": case.me(),
        "encounter": make.ref("Encounter", case.id("encounter")),
        "evidence": [{"detail": [make.ref("Observation", case.id("panel"))]}],
        "note": [{"authorReference": case.doctor(), "text": make.note(case.note_bytes // 4)}],
    }


def _vitals(case: Case) -> Iterator[Json]:
    """A panel that has members, members that were derived from the panel: a circle within one type."""
    names = [f"vital-{number}" for number in range(len(_VITALS))]
    panel = _observation(case, "panel", "vital-signs", "85353-1", "Vital signs panel")
    panel["hasMember"] = [case.make.ref("Observation", case.id(name)) for name in names]
    yield panel
    for name, (code, text, unit) in zip(names, _VITALS, strict=True):
        vital = _observation(case, name, "vital-signs", code, text)
        vital["valueQuantity"] = {"value": 60 + case.make.random.randrange(90), "unit": unit}
        vital["derivedFrom"] = [case.make.ref("Observation", case.id("panel"))]
        yield vital


def _labs(case: Case) -> Iterator[Json]:
    """An order, its specimen, results and report: all with the same accession number."""
    make, shared = case.make, [{"system": ACCESSION_SYSTEM, "value": case.accession}]
    yield treatment.service_request(case, shared)
    yield {
        "resourceType": "Specimen",
        "id": case.id("specimen"),
        "identifier": shared,
        "subject": case.me(),
        "request": [make.ref("ServiceRequest", case.id("order"))],
        "collection": {"collector": case.doctor(), "collectedDateTime": make.moment()},
    }
    for number, (code, text, unit) in enumerate(_LABS):
        result = _observation(case, f"lab-{number}", "laboratory", code, text)
        result["identifier"] = shared
        result["basedOn"] = [make.ref("ServiceRequest", case.id("order"))]
        result["specimen"] = make.ref("Specimen", case.id("specimen"))
        result["valueQuantity"] = {"value": make.random.randrange(1, 200) / 10, "unit": unit}
        yield result
    yield {
        "resourceType": "DiagnosticReport",
        "id": case.id("report"),
        "identifier": shared,
        "status": "final",
        "category": [make.code(f"{TERMS}/v2-0074", "LAB", "Laboratory")],
        "code": make.code(LOINC, "24323-8", "Comprehensive metabolic panel"),
        "subject": case.me(),
        "encounter": make.ref("Encounter", case.id("encounter")),
        "effectiveDateTime": make.moment(),
        "performer": [make.ref("Organization", case.office.organization)],
        "basedOn": [make.ref("ServiceRequest", case.id("order"))],
        "specimen": [make.ref("Specimen", case.id("specimen"))],
        "result": [make.ref("Observation", case.id(f"lab-{number}")) for number in range(len(_LABS))],
    }


def _observation(case: Case, name: str, category: str, code: str, text: str) -> Json:
    return {
        "resourceType": "Observation",
        "id": case.id(name),
        "status": "final",
        "category": [case.make.code(f"{TERMS}/observation-category", category, category)],
        "code": case.make.code(LOINC, code, text),
        "subject": case.me(),
        "encounter": case.make.ref("Encounter", case.id("encounter")),
        "effectiveDateTime": case.make.moment(),
        "performer": [case.doctor()],
    }


def _documents(case: Case) -> Iterator[Json]:
    """A note in a Binary, and one inside its own DocumentReference; each names the other."""
    content = case.make.note(case.attachment_bytes).encode()
    relative = f"Binary/{case.id('binary')}"
    url = case.make.one((relative, f"{case.make.source.base}/{relative}"))
    attachment = {"contentType": "text/plain; charset=utf-8", "url": url, **_fingerprint(content)}
    yield _document(case, "document", "document-2", attachment)
    inline = {"contentType": "text/plain; charset=utf-8", "data": base64.b64encode(content).decode()}
    yield _document(case, "document-2", "document", {**inline, **_fingerprint(content)})
    yield {
        "resourceType": "Binary",
        "id": case.id("binary"),
        "contentType": "text/plain; charset=utf-8",
        "securityContext": case.make.ref("DocumentReference", case.id("document")),
        "data": base64.b64encode(content).decode(),
    }


def _document(case: Case, name: str, other: str, attachment: Json) -> Json:
    make = case.make
    return {
        "resourceType": "DocumentReference",
        "id": case.id(name),
        "identifier": [{"system": "urn:ietf:rfc:3986", "value": f"urn:uuid:{case.id(name)}"}],
        "status": "current",
        "type": make.code(LOINC, "11506-3", "Progress note"),
        "category": [
            make.code(
                "http://hl7.org/fhir/us/core/CodeSystem/us-core-documentreference-category",
                "clinical-note",
                "Clinical Note",
            )
        ],
        "subject": case.me(),
        "date": make.moment(),
        "author": [case.doctor(), make.ref("PractitionerRole", make.one(case.office.roles))],
        "relatesTo": [{"code": "appends", "target": make.ref("DocumentReference", case.id(other))}],
        "description": make.note(80),
        "content": [{"attachment": attachment}],
        "context": {"encounter": [make.ref("Encounter", case.id("visit-2"))]},
    }


def _fingerprint(content: bytes) -> Json:
    # FHIR's Attachment.hash is SHA-1 by definition; nothing is protected by it.
    return {
        "size": len(content),
        "hash": base64.b64encode(hashlib.sha1(content, usedforsecurity=False).digest()).decode(),
    }
