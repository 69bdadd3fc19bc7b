"""How a source resource is identified in Medplum: identifier systems, tags, and the order of loading."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from bot_layer.fhir.json import Json, as_object, objects

ROOT: Final = "https://practicefusion.com/fhir"
# What the sync stores on its own identifier (or tag), so that nothing else in the resource is changed.
ORIGIN_URL: Final = f"{ROOT}/source-address"
VERSION_URL: Final = f"{ROOT}/source-version"
UPDATED_URL: Final = f"{ROOT}/source-last-updated"
ORIGINAL_IDENTIFIER_URL: Final = f"{ROOT}/original-identifier"
ORIGINAL_TYPE_URL: Final = f"{ROOT}/original-type"
ATTACHMENT_URL: Final = f"{ROOT}/source-url"
ATTACHMENT_DIGEST_URL: Final = f"{ROOT}/source-content-digest"

# Importable types without a list `identifier`: none at all, or a single one that belongs to the source.
# https://hl7.org/fhir/R4/provenance.html, .../questionnaireresponse.html, .../composition.html
KEYED_BY_TAG: Final = frozenset(
    {"AdverseEvent", "Composition", "MedicationKnowledge", "Provenance", "QuestionnaireResponse"}
)

# Reference targets come first, so that references are right at the first write. A type that is not listed is loaded
# with the clinical ones; the repair at the end closes cycles.
LEVELS: Final[tuple[tuple[str, ...], ...]] = (
    ("Organization", "Location", "Practitioner", "Medication", "Substance", "Questionnaire"),
    ("PractitionerRole", "Patient", "HealthcareService", "Endpoint"),
    ("RelatedPerson", "Device", "Coverage", "Group", "Specimen", "Binary"),
    ("Encounter", "CareTeam", "Goal"),
    ("Condition", "AllergyIntolerance", "Immunization", "Procedure", "ServiceRequest", "MedicationRequest"),
    ("Observation",),
    ("MedicationDispense", "MedicationStatement", "MedicationAdministration", "DiagnosticReport", "CarePlan"),
    ("DocumentReference", "Composition", "QuestionnaireResponse"),
    ("Provenance", "AuditEvent", "List"),
)
# Types that the source's resources refer to and that are seldom exported: read one by one if the rights allow it.
POINTED_TO: Final = ("Location", "PractitionerRole", "Medication", "Organization", "Practitioner", "HealthcareService")
# Practice Fusion advertises no scopes; it grants these (https://www.practicefusion.com/fhir/api-specifications/), so
# they are requested together and the others separately.
USUALLY_GRANTED: Final = (
    *("Patient", "RelatedPerson", "Practitioner", "Organization", "CareTeam", "Coverage", "Device", "Encounter"),
    *("Condition", "AllergyIntolerance", "Immunization", "Procedure", "ServiceRequest", "Specimen", "Observation"),
    *("MedicationRequest", "MedicationDispense", "DiagnosticReport", "DocumentReference", "CarePlan", "Goal"),
    "Provenance",
)
_CLINICAL: Final = 4  # the level of Condition
_LEVEL_OF: Final = {name: number for number, names in enumerate(LEVELS) for name in names}


@lru_cache(maxsize=500)
def id_system(resource_type: str) -> str:
    """The identifier system for the source's ids of this type in Medplum: ``.../medication-request-id``."""
    kebab = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", resource_type).lower()
    return f"{ROOT}/{kebab}-id"


def level_of(resource_type: str) -> int:
    """The level of a type: lower numbers are loaded first."""
    return _LEVEL_OF.get(resource_type, _CLINICAL)


def in_order(types: Iterable[str]) -> tuple[str, ...]:
    """The types in loading order; the given order is kept within a level."""
    return tuple(sorted(dict.fromkeys(types), key=level_of))


def stored_as(resource_type: str) -> str:
    """The type with which Medplum stores and finds a source resource of this type."""
    # Medplum does not search Binary (https://github.com/medplum/medplum/pull/4187), so that none could be found again.
    # A Basic with the identifier represents each one, and refers to the content.
    return "Basic" if resource_type == "Binary" else resource_type


def markers(resource: Json, resource_type: str) -> dict[str, Json]:
    """The sync's own identifiers (or tags) on a resource in Medplum, by the source's id."""
    by_tag = resource_type in KEYED_BY_TAG
    entries = as_object(resource.get("meta")).get("tag") if by_tag else resource.get("identifier")
    found: dict[str, Json] = {}
    for each in objects(entries):
        source_id = each.get("code" if by_tag else "value")
        if each.get("system") == id_system(resource_type) and isinstance(source_id, str):
            found.setdefault(source_id, each)
    return found


def source_id_of(resource: Json, resource_type: str) -> str | None:
    """The source id of a resource in Medplum, or None if this sync did not write it."""
    if resource.get("resourceType") != stored_as(resource_type):
        return None
    return next(iter(markers(resource, resource_type)), None)


def lookup_query(resource_type: str, source_ids: Iterable[str]) -> str:
    """The search that finds these ids in one request, with a comma-separated list."""
    # Ids are letters, digits, '-' and '.', so only the bar needs escaping; shorter URLs have room for more ids.
    system = id_system(resource_type)
    parameter = "_tag" if resource_type in KEYED_BY_TAG else "identifier"
    return f"{parameter}=" + ",".join(f"{system}%7C{source_id}" for source_id in source_ids)
