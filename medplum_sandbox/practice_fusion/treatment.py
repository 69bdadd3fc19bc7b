"""The second half of a chart: what was ordered, given, planned and done, and who recorded it."""

from __future__ import annotations

from collections.abc import Iterator

from medplum_sandbox.json import Json
from medplum_sandbox.practice_fusion.case import Case
from medplum_sandbox.practice_fusion.directory import DRUGS
from medplum_sandbox.practice_fusion.make import FOREIGN, RXNORM, SNOMED, TERMS


def resources(case: Case) -> Iterator[Json]:
    """All of it."""
    yield from (_allergy(case), _immunization(case), _device(case))
    yield from _procedures(case)
    yield from _drugs(case)
    yield from _plans(case)
    yield _provenance(case)


def service_request(case: Case, identifiers: list[Json]) -> Json:
    """The order; its requester is a clinician's role, which is not exported."""
    make = case.make
    return {
        "resourceType": "ServiceRequest",
        "id": case.id("order"),
        "identifier": identifiers,
        "status": "active",
        "intent": "order",
        "code": make.code(SNOMED, "15220000", "Laboratory test"),
        "subject": case.me(),
        "encounter": make.ref("Encounter", case.id("encounter")),
        "requester": make.ref("PractitionerRole", make.one(case.office.roles)),
        "reasonReference": [make.ref("Condition", case.id("condition"))],
        "supportingInfo": [make.ref("DiagnosticReport", case.id("report")), {"identifier": identifiers[0]}],
        "extension": [
            {
                "url": "https://numbers.example.org/deep",
                "extension": [{"url": "where", "valueReference": make.ref("Location", case.office.locations[0])}],
            }
        ],
    }


def _allergy(case: Case) -> Json:
    return {
        "resourceType": "AllergyIntolerance",
        "id": case.id("allergy"),
        "clinicalStatus": {"coding": [{"system": f"{TERMS}/allergyintolerance-clinical", "code": "active"}]},
        "code": case.make.code(SNOMED, "91936005", "Allergy to penicillin"),
        "patient": case.me(),
        "asserter": case.make.ref("RelatedPerson", case.id("relative")),
        "reaction": [
            {"manifestation": [case.make.code(SNOMED, "247472004", "Hives")], "note": [{"text": case.make.note(60)}]}
        ],
    }


def _immunization(case: Case) -> Json:
    return {
        "resourceType": "Immunization",
        "id": case.id("shot"),
        "status": "completed",
        "vaccineCode": case.make.code("http://hl7.org/fhir/sid/cvx", "140", "Influenza"),
        "patient": case.me(),
        "encounter": case.make.ref("Encounter", case.id("encounter")),
        "occurrenceDateTime": case.make.moment(),
        "location": case.make.ref("Location", case.office.locations[1]),
        "performer": [{"actor": case.doctor()}],
    }


def _device(case: Case) -> Json:
    return {
        "resourceType": "Device",
        "id": case.id("device"),
        "status": "active",
        "deviceName": [{"name": "Pacemaker “Nº 5”", "type": "user-friendly-name"}],
        "patient": case.me(),
    }


def _procedures(case: Case) -> Iterator[Json]:
    """A procedure that is part of another one, which refers back to it."""
    make = case.make
    for name, extra in (
        ("procedure-2", {"partOf": [make.ref("Procedure", case.id("procedure"))]}),
        ("procedure", {"reasonReference": [make.ref("Procedure", case.id("procedure-2"))]}),
    ):
        yield {
            "resourceType": "Procedure",
            "id": case.id(name),
            "status": "completed",
            "code": make.code(SNOMED, "36048009", "Glucose measurement"),
            "subject": case.me(),
            "encounter": make.ref("Encounter", case.id("visit-2")),
            "performedDateTime": make.moment(),
            "performer": [{"actor": case.doctor(), "onBehalfOf": make.ref("Organization", case.office.organization)}],
            "focalDevice": [{"manipulated": make.ref("Device", case.id("device"))}],
            "report": [{"reference": f"{FOREIGN}/DiagnosticReport/{make.digits(5)}"}],
            **extra,
        }


def _drugs(case: Case) -> Iterator[Json]:
    """A prescription of a non-exportable drug, one of a contained drug, a dispensed drug, and one that is taken."""
    make = case.make
    which = make.random.randrange(len(DRUGS))
    shared = {"subject": case.me(), "medicationReference": make.ref("Medication", case.office.medications[which])}
    request: Json = {
        "resourceType": "MedicationRequest",
        "status": "active",
        "intent": "order",
        "subject": case.me(),
        "encounter": make.ref("Encounter", case.id("encounter")),
        "authoredOn": make.moment(),
        "requester": case.doctor(),
    }
    yield {
        **request,
        **shared,
        "id": case.id("prescription"),
        "reasonReference": [make.ref("Condition", case.id("condition-2"))],
    }
    contained = {
        "resourceType": "Medication",
        "id": "drug",
        "code": make.code(RXNORM, *DRUGS[which]),
        "manufacturer": make.ref("Organization", case.office.organization),
    }
    yield {
        **request,
        "id": case.id("prescription-2"),
        "contained": [contained],
        "medicationReference": {"reference": "#drug"},
        "priorPrescription": make.ref("MedicationRequest", case.id("prescription")),
    }
    yield {
        "resourceType": "MedicationDispense",
        "id": case.id("dispense"),
        "status": "completed",
        **shared,
        "authorizingPrescription": [make.ref("MedicationRequest", case.id("prescription"))],
        "performer": [{"actor": {"reference": f"urn:uuid:{make.id()}", "display": "Pharmacy counter"}}],
    }
    yield {
        "resourceType": "MedicationStatement",
        "id": case.id("statement"),
        "status": "active",
        **shared,
        "informationSource": make.ref("RelatedPerson", case.id("relative")),
        "derivedFrom": [make.ref("MedicationRequest", case.id("prescription"))],
    }


def _plans(case: Case) -> Iterator[Json]:
    make = case.make
    yield {
        "resourceType": "Goal",
        "id": case.id("goal"),
        "lifecycleStatus": "active",
        "description": {"text": make.note(40)},
        "subject": case.me(),
        "addresses": [make.ref("Condition", case.id("condition"))],
        "outcomeReference": [make.ref("Observation", case.id("panel"))],
    }
    yield {
        "resourceType": "CareTeam",
        "id": case.id("team"),
        "status": "active",
        "subject": case.me(),
        "participant": [{"member": case.doctor()}, {"member": make.ref("PractitionerRole", case.office.roles[0])}],
    }
    yield {
        "resourceType": "CarePlan",
        "id": case.id("plan"),
        "status": "active",
        "intent": "plan",
        "category": [make.code("http://hl7.org/fhir/us/core/CodeSystem/careplan-category", "assess-plan", "Plan")],
        "subject": case.me(),
        "careTeam": [make.ref("CareTeam", case.id("team"))],
        "goal": [make.ref("Goal", case.id("goal"))],
        "addresses": [make.ref("Condition", case.id("condition"))],
        "activity": [{"reference": make.ref("ServiceRequest", case.id("order"))}],
        "note": [{"text": make.note(case.note_bytes)}],
    }


def _provenance(case: Case) -> Json:
    """Who recorded it. R4 has no ``identifier`` here."""
    make = case.make
    return {
        "resourceType": "Provenance",
        "id": case.id("provenance"),
        "target": [make.ref("Encounter", case.id("encounter")), make.ref("Condition", case.id("condition"))],
        "recorded": make.moment(),
        "agent": [{"who": case.doctor(), "onBehalfOf": make.ref("Organization", case.office.organization)}],
    }
