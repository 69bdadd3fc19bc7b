"""How to mark a resource instead of deleting it: inactive, entered-in-error."""

from __future__ import annotations

from typing import Final

from bot_layer.fhir.json import Json

# The element in which a type marks a record as invalid (https://hl7.org/fhir/R4/ and its value sets).
_INACTIVE: Final = frozenset(
    {"Patient", "Practitioner", "PractitionerRole", "Organization", "RelatedPerson", "HealthcareService", "Group"}
)
_STATUS: Final = frozenset(
    (
        *("Encounter", "CarePlan", "CareTeam", "Procedure", "ServiceRequest", "Immunization", "Coverage", "Device"),
        *("Observation", "DiagnosticReport", "DocumentReference", "Specimen"),
        *("Medication", "MedicationRequest", "MedicationDispense", "MedicationStatement"),
    )
)
_VERIFICATION: Final = {
    "Condition": "http://terminology.hl7.org/CodeSystem/condition-ver-status",
    "AllergyIntolerance": "http://terminology.hl7.org/CodeSystem/allergyintolerance-verification",
}


def marked(resource: Json) -> Json | None:
    """The marked resource, or None for a type without such an element."""
    kind = resource["resourceType"]
    if kind in _INACTIVE:
        return {**resource, "active": False}
    if kind in _STATUS:
        return {**resource, "status": "entered-in-error"}
    if kind == "Goal":
        return {**resource, "lifecycleStatus": "entered-in-error"}
    if kind in _VERIFICATION:
        # Invariants con-5 and ait-2: no clinical status together with it.
        rest = {name: value for name, value in resource.items() if name != "clinicalStatus"}
        coding = [{"system": _VERIFICATION[kind], "code": "entered-in-error"}]
        return {**rest, "verificationStatus": {"coding": coding}}
    return None
