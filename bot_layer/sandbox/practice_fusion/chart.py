"""One patient's chart: who, when, and what was found; the other half is in treatment.py."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from bot_layer.core.json import Json
from bot_layer.sandbox.practice_fusion import treatment
from bot_layer.sandbox.practice_fusion.directory import Office
from bot_layer.sandbox.practice_fusion.make import (
    ACCESSION_SYSTEM,
    CITIES,
    FAMILIES,
    FOREIGN,
    GIVEN,
    LOINC,
    MRN_SYSTEM,
    SNOMED,
    TERMS,
    Make,
)

_VITALS = (("8480-6", "Systolic", "mm[Hg]"), ("8462-4", "Diastolic", "mm[Hg]"), ("8867-4", "Heart rate", "/min"))
_LABS = (("2345-7", "Glucose", "mg/dL"), ("4548-4", "Hemoglobin A1c", "%"))


@dataclass
class Case:
    """A patient with the ids of all that refers to each other; made up front, because the references go in circles."""

    make: Make
    office: Office
    patient: str
    other: str
    note_bytes: int = 2000
    attachment_bytes: int = 600
    ids: dict[str, str] = field(default_factory=dict)
    mrn: str = ""
    accession: str = ""

    def __post_init__(self) -> None:
        """Draws what several resources share."""
        self.mrn = "TE" + self.make.digits(6)
        self.accession = "ACC-" + self.make.digits(8)
        # Ids are unique within a type only: the Condition of a visit has the visit's id.
        self.ids["condition"] = self.id("encounter")

    def id(self, name: str) -> str:
        """The id of one resource of this chart, by a name of our own."""
        if name not in self.ids:
            self.ids[name] = self.make.id()
        return self.ids[name]

    def me(self) -> Json:
        """A reference to the patient."""
        return self.make.ref("Patient", self.patient)

    def doctor(self) -> Json:
        """A reference to one of the clinicians, sometimes one who is elsewhere."""
        if self.make.random.random() < 0.05:
            return {"reference": f"{FOREIGN}/Practitioner/77", "display": "Dr. Elsewhere"}
        return self.make.ref("Practitioner", self.make.one(self.office.practitioners), display="Dr. Test")

    def resources(self) -> Iterator[Json]:
        """The whole chart. Some resources come before those they refer to."""
        yield from (self._patient(), self._related_person(), self._coverage())
        yield from (self._encounter("encounter", None), self._encounter("visit-2", "encounter"))
        yield from (self._condition("condition"), self._condition("condition-2"))
        yield from self._vitals()
        yield from self._labs()
        yield from self._documents()
        yield from treatment.resources(self)

    def _patient(self) -> Json:
        make = self.make
        return {
            "resourceType": "Patient",
            "id": self.patient,
            "identifier": [
                {
                    "use": "usual",
                    "type": {"coding": [{"system": f"{TERMS}/v2-0203", "code": "MR"}]},
                    "system": MRN_SYSTEM,
                    "value": self.mrn,
                }
            ],
            "active": True,
            "name": [{"use": "official", "family": make.one(FAMILIES), "given": [make.one(GIVEN)]}],
            "gender": make.one(("male", "female", "other", "unknown")),
            "birthDate": f"{1930 + make.random.randrange(90)}-0{1 + make.random.randrange(9)}-15",
            "address": [{"line": ["1 Example \\ Street"], "city": make.one(CITIES), "postalCode": make.digits(5)}],
            "generalPractitioner": [self.doctor()],
            "managingOrganization": make.ref("Organization", self.office.organization),
            "link": [{"other": make.ref("Patient", self.other), "type": "seealso"}],
        }

    def _related_person(self) -> Json:
        return {
            "resourceType": "RelatedPerson",
            "id": self.id("relative"),
            "patient": self.me(),
            "relationship": [self.make.code(f"{TERMS}/v3-RoleCode", "SPS", "spouse")],
            "name": [{"family": self.make.one(FAMILIES), "given": [self.make.one(GIVEN)]}],
        }

    def _coverage(self) -> Json:
        return {
            "resourceType": "Coverage",
            "id": self.id("coverage"),
            # The payer uses the practice's own record number: the value is shared, the thing is another.
            "identifier": [{"system": MRN_SYSTEM, "value": self.mrn}],
            "status": "active",
            "subscriber": self.make.ref("RelatedPerson", self.id("relative")),
            "beneficiary": self.me(),
            "payor": [self.make.ref("Organization", self.office.organization)],
        }

    def _encounter(self, name: str, part_of: str | None) -> Json:
        make, start = self.make, self.make.moment()
        resource: Json = {
            "resourceType": "Encounter",
            "id": self.id(name),
            "status": "finished",
            "class": {"system": f"{TERMS}/v3-ActCode", "code": "AMB"},
            "type": [make.code(SNOMED, "185349003", "Encounter for check up")],
            "subject": self.me(),
            "participant": [{"individual": self.doctor()}],
            "period": {"start": start, "end": start},
            "diagnosis": [{"condition": make.ref("Condition", self.id("condition"))}],
            "location": [{"location": make.ref("Location", make.one(self.office.locations))}],
            "serviceProvider": make.ref("Organization", self.office.organization),
        }
        if part_of is not None:
            resource["partOf"] = make.ref("Encounter", self.id(part_of))
        return resource

    def _condition(self, name: str) -> Json:
        make = self.make
        return {
            "resourceType": "Condition",
            "id": self.id(name),
            "clinicalStatus": {"coding": [{"system": f"{TERMS}/condition-clinical", "code": "active"}]},
            "category": [make.code(f"{TERMS}/condition-category", "encounter-diagnosis", "Encounter Diagnosis")],
            "code": make.code(SNOMED, "38341003", "Hypertensive disorder"),
            "subject": self.me(),
            "encounter": make.ref("Encounter", self.id("encounter")),
            "evidence": [{"detail": [make.ref("Observation", self.id("panel"))]}],
            "note": [{"authorReference": self.doctor(), "text": make.note(self.note_bytes // 4)}],
        }

    def _vitals(self) -> Iterator[Json]:
        """A panel that has members, members that were derived from the panel: a circle within one type."""
        names = [f"vital-{number}" for number in range(len(_VITALS))]
        panel = self._observation("panel", "vital-signs", "85353-1", "Vital signs panel")
        panel["hasMember"] = [self.make.ref("Observation", self.id(name)) for name in names]
        yield panel
        for name, (code, text, unit) in zip(names, _VITALS, strict=True):
            vital = self._observation(name, "vital-signs", code, text)
            vital["valueQuantity"] = {"value": 60 + self.make.random.randrange(90), "unit": unit}
            vital["derivedFrom"] = [self.make.ref("Observation", self.id("panel"))]
            yield vital

    def _labs(self) -> Iterator[Json]:
        """An order, its specimen, results and report: all with the same accession number."""
        make, shared = self.make, [{"system": ACCESSION_SYSTEM, "value": self.accession}]
        yield treatment.service_request(self, shared)
        yield {
            "resourceType": "Specimen",
            "id": self.id("specimen"),
            "identifier": shared,
            "subject": self.me(),
            "request": [make.ref("ServiceRequest", self.id("order"))],
            "collection": {"collector": self.doctor(), "collectedDateTime": make.moment()},
        }
        for number, (code, text, unit) in enumerate(_LABS):
            result = self._observation(f"lab-{number}", "laboratory", code, text)
            result["identifier"] = shared
            result["basedOn"] = [make.ref("ServiceRequest", self.id("order"))]
            result["specimen"] = make.ref("Specimen", self.id("specimen"))
            result["valueQuantity"] = {"value": make.random.randrange(1, 200) / 10, "unit": unit}
            yield result
        yield {
            "resourceType": "DiagnosticReport",
            "id": self.id("report"),
            "identifier": shared,
            "status": "final",
            "category": [make.code(f"{TERMS}/v2-0074", "LAB", "Laboratory")],
            "code": make.code(LOINC, "24323-8", "Comprehensive metabolic panel"),
            "subject": self.me(),
            "encounter": make.ref("Encounter", self.id("encounter")),
            "effectiveDateTime": make.moment(),
            "performer": [make.ref("Organization", self.office.organization)],
            "basedOn": [make.ref("ServiceRequest", self.id("order"))],
            "specimen": [make.ref("Specimen", self.id("specimen"))],
            "result": [make.ref("Observation", self.id(f"lab-{number}")) for number in range(len(_LABS))],
        }

    def _observation(self, name: str, category: str, code: str, text: str) -> Json:
        return {
            "resourceType": "Observation",
            "id": self.id(name),
            "status": "final",
            "category": [self.make.code(f"{TERMS}/observation-category", category, category)],
            "code": self.make.code(LOINC, code, text),
            "subject": self.me(),
            "encounter": self.make.ref("Encounter", self.id("encounter")),
            "effectiveDateTime": self.make.moment(),
            "performer": [self.doctor()],
        }

    def _documents(self) -> Iterator[Json]:
        """A note in a Binary, and one inside its own DocumentReference; each names the other."""
        content = self.make.note(self.attachment_bytes).encode()
        relative = f"Binary/{self.id('binary')}"
        url = self.make.one((relative, f"{self.make.source.base}/{relative}"))
        attachment = {"contentType": "text/plain; charset=utf-8", "url": url, **_fingerprint(content)}
        yield self._document("document", "document-2", attachment)
        inline = {"contentType": "text/plain; charset=utf-8", "data": base64.b64encode(content).decode()}
        yield self._document("document-2", "document", {**inline, **_fingerprint(content)})
        yield {
            "resourceType": "Binary",
            "id": self.id("binary"),
            "contentType": "text/plain; charset=utf-8",
            "securityContext": self.make.ref("DocumentReference", self.id("document")),
            "data": base64.b64encode(content).decode(),
        }

    def _document(self, name: str, other: str, attachment: Json) -> Json:
        make = self.make
        return {
            "resourceType": "DocumentReference",
            "id": self.id(name),
            "identifier": [{"system": "urn:ietf:rfc:3986", "value": f"urn:uuid:{self.id(name)}"}],
            "status": "current",
            "type": make.code(LOINC, "11506-3", "Progress note"),
            "category": [
                make.code(
                    "http://hl7.org/fhir/us/core/CodeSystem/us-core-documentreference-category",
                    "clinical-note",
                    "Clinical Note",
                )
            ],
            "subject": self.me(),
            "date": make.moment(),
            "author": [self.doctor(), make.ref("PractitionerRole", make.one(self.office.roles))],
            "relatesTo": [{"code": "appends", "target": make.ref("DocumentReference", self.id(other))}],
            "description": make.note(80),
            "content": [{"attachment": attachment}],
            "context": {"encounter": [make.ref("Encounter", self.id("visit-2"))]},
        }


def _fingerprint(content: bytes) -> Json:
    # FHIR's Attachment.hash is SHA-1 by definition; nothing is protected by it.
    return {
        "size": len(content),
        "hash": base64.b64encode(hashlib.sha1(content, usedforsecurity=False).digest()).decode(),
    }
