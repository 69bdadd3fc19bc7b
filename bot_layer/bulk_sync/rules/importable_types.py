"""The resource types that a source may import into Medplum: a patient's record and the people who care for the patient.

Types that control a Medplum server (Subscription, Bot, AccessPolicy, ...) or describe it (StructureDefinition, ...) are
never imported from a source: https://www.medplum.com/docs/access/access-policies.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

# Grouped as in https://hl7.org/fhir/R4/resourcelist.html
IMPORTABLE: Final = frozenset[str]().union(
    # Individuals and entities
    ("Patient", "Practitioner", "PractitionerRole", "RelatedPerson", "Person", "Group"),
    ("Organization", "OrganizationAffiliation", "HealthcareService", "Endpoint", "Location"),
    ("Substance", "BiologicallyDerivedProduct", "Device", "DeviceMetric", "DeviceDefinition"),
    # Workflow and management
    ("Appointment", "AppointmentResponse", "Schedule", "Slot"),
    ("Encounter", "EpisodeOfCare", "Flag", "List", "Basic", "Binary"),
    # Documents
    ("Composition", "DocumentManifest", "DocumentReference", "Consent", "Provenance"),
    # Summary and diagnostics
    ("AllergyIntolerance", "AdverseEvent", "Condition", "Procedure", "FamilyMemberHistory"),
    ("ClinicalImpression", "DetectedIssue", "RiskAssessment", "Observation", "Media", "DiagnosticReport"),
    ("Specimen", "BodyStructure", "ImagingStudy", "MolecularSequence", "Questionnaire", "QuestionnaireResponse"),
    # Medications
    ("MedicationRequest", "MedicationAdministration", "MedicationDispense", "MedicationStatement"),
    ("Medication", "MedicationKnowledge"),
    ("Immunization", "ImmunizationEvaluation", "ImmunizationRecommendation"),
    # Care provision, requests and responses
    ("CarePlan", "CareTeam", "Goal", "ServiceRequest", "NutritionOrder", "VisionPrescription", "RequestGroup"),
    ("Communication", "CommunicationRequest", "DeviceRequest", "DeviceUseStatement", "GuidanceResponse"),
    ("SupplyRequest", "SupplyDelivery", "ResearchStudy", "ResearchSubject"),
    # Financial
    ("Coverage", "CoverageEligibilityRequest", "CoverageEligibilityResponse"),
    ("EnrollmentRequest", "EnrollmentResponse", "Claim", "ClaimResponse", "Invoice"),
    ("PaymentNotice", "PaymentReconciliation", "Account", "ChargeItem", "Contract"),
    ("ExplanationOfBenefit", "InsurancePlan"),
)


def not_importable(types: Iterable[str]) -> tuple[str, ...]:
    """The types that no source may import, to be named in a message."""
    return tuple(each for each in dict.fromkeys(types) if each not in IMPORTABLE)
