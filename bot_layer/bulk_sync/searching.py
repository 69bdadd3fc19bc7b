"""Searches a patient's resources if a source offers no export: every page, no silent limit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import quote

from bot_layer.bulk_sync.rules.source_identity import POINTED_TO
from bot_layer.bulk_sync.source.client import PracticeFusion
from bot_layer.fhir.json import Json

# The types that can be searched by patient (https://hl7.org/fhir/R4/compartmentdefinition-patient.html). The others
# (Organization, Practitioner, Medication, ...) are read when another resource refers to them.
_BY_PATIENT: Final = frozenset[str]().union(
    ("AllergyIntolerance", "Condition", "DiagnosticReport", "Immunization", "Observation", "Procedure", "Specimen"),
    ("MedicationAdministration", "MedicationDispense", "MedicationRequest", "MedicationStatement"),
    ("CarePlan", "CareTeam", "Encounter", "Goal", "ServiceRequest"),
    ("DocumentReference", "Provenance", "QuestionnaireResponse"),
    ("Coverage", "Device", "RelatedPerson"),
)
# These belong to no patient: they are read when another resource refers to them.
_NOBODYS: Final = frozenset({*POINTED_TO, "Binary", "Endpoint", "Group", "Questionnaire", "Substance"})
PAGE: Final = 100


def searched(kind: str) -> bool:
    """True for a type that the search returns completely for a patient."""
    return kind == "Patient" or kind in _BY_PATIENT


def left_out(kind: str) -> bool:
    """True for a type of patient data that the search does not return."""
    return not searched(kind) and kind not in _NOBODYS


def searched_resources(source: PracticeFusion, patient: str, types: Iterable[str], since: str) -> Iterator[Json]:
    """A patient's resources in the order of the types."""
    newer = f"&_lastUpdated=gt{quote(since, safe=':')}" if since else ""
    for kind in types:
        if kind == "Patient":
            yield from source.records.search("Patient", f"_id={patient}{newer}&_count={PAGE}")
        elif kind in _BY_PATIENT:
            yield from source.records.search(kind, f"patient={patient}{newer}&_count={PAGE}")
