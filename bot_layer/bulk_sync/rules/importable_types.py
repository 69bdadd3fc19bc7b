"""The resource types that a source may import into Medplum: a patient's record and the people who care for the patient.

Types that control a Medplum server (Subscription, Bot, AccessPolicy, ...) or describe it (StructureDefinition, ...) are
never imported from a source: https://www.medplum.com/docs/access/access-policies,
https://hl7.org/fhir/R4/resourcelist.html.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

CLINICAL: Final = frozenset(
    {
        "Account",
        "AdverseEvent",
        "AllergyIntolerance",
        "Appointment",
        "AppointmentResponse",
        "Basic",
        "Binary",
        "BodyStructure",
        "CarePlan",
        "CareTeam",
        "ChargeItem",
        "Claim",
        "ClaimResponse",
        "ClinicalImpression",
        "Communication",
        "CommunicationRequest",
        "Composition",
        "Condition",
        "Consent",
        "Contract",
        "Coverage",
        "CoverageEligibilityRequest",
        "CoverageEligibilityResponse",
        "DetectedIssue",
        "Device",
        "DeviceMetric",
        "DeviceRequest",
        "DeviceUseStatement",
        "DiagnosticReport",
        "DocumentManifest",
        "DocumentReference",
        "Encounter",
        "EnrollmentRequest",
        "EnrollmentResponse",
        "EpisodeOfCare",
        "ExplanationOfBenefit",
        "FamilyMemberHistory",
        "Flag",
        "Goal",
        "Group",
        "GuidanceResponse",
        "ImagingStudy",
        "Immunization",
        "ImmunizationEvaluation",
        "ImmunizationRecommendation",
        "Invoice",
        "List",
        "Media",
        "MedicationAdministration",
        "MedicationDispense",
        "MedicationRequest",
        "MedicationStatement",
        "MolecularSequence",
        "NutritionOrder",
        "Observation",
        "Patient",
        "PaymentNotice",
        "PaymentReconciliation",
        "Person",
        "Procedure",
        "Provenance",
        "QuestionnaireResponse",
        "RelatedPerson",
        "RequestGroup",
        "ResearchSubject",
        "RiskAssessment",
        "Schedule",
        "ServiceRequest",
        "Slot",
        "Specimen",
        "SupplyDelivery",
        "SupplyRequest",
        "VisionPrescription",
    }
)
ADMINISTRATIVE: Final = frozenset(
    {
        "BiologicallyDerivedProduct",
        "DeviceDefinition",
        "Endpoint",
        "HealthcareService",
        "InsurancePlan",
        "Location",
        "Medication",
        "MedicationKnowledge",
        "Organization",
        "OrganizationAffiliation",
        "Practitioner",
        "PractitionerRole",
        "Questionnaire",
        "ResearchStudy",
        "Substance",
    }
)
IMPORTABLE: Final = CLINICAL | ADMINISTRATIVE


def is_importable(resource_type: str) -> bool:
    """True for a type that a source may import."""
    return resource_type in IMPORTABLE


def not_importable(types: Iterable[str]) -> tuple[str, ...]:
    """The types that no source may import, to be named in a message."""
    return tuple(each for each in dict.fromkeys(types) if each not in IMPORTABLE)
