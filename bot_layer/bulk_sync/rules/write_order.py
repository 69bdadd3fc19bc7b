"""The order in which resources are written, so that almost every reference is right at the first write.

First the resources that belong to no patient (organizations, practitioners, ...), level by level; then each patient's
resources together, so that they can refer to each other within one batch; last the resources that refer to patients but
belong to none.
"""

from __future__ import annotations

from typing import Any, Final

from bot_layer.bulk_sync.rules.references import Key, queries, read_reference, targets
from bot_layer.bulk_sync.rules.source_identity import level_of
from bot_layer.fhir.json import Json, as_object

# Elements that name the patient, in R4 resources that belong to one
# (https://hl7.org/fhir/R4/compartmentdefinition-patient.html).
_PATIENT: Final = ("subject", "patient", "beneficiary", "for", "individual", "securityContext")
_SHARED_LEVEL: Final = 1  # up to PractitionerRole: nothing of these levels refers to a patient
SHARED, PATIENTS, REST = "0", "1", "2"


def place_of(key: Key, resource: Json, source: str) -> str:
    """The sort key of a resource: stage, patient, level, type, id. The same resource always has the same key."""
    stage, patient = _stage(key, resource, source)
    return f"{stage}/{patient}/{level_of(key.type)}/{key.type}/{key.id}"


def owner_of(key: Key, resource: Json, source: str) -> str:
    """The id of the patient that a resource belongs to; empty for none or several."""
    return _stage(key, resource, source)[1]


def group_of(place: str) -> str:
    """The group that is written together: a patient's resources, or a level of resources without a patient."""
    stage, patient, level, _, _ = place.split("/")
    return f"{stage}/{patient}" if stage == PATIENTS else f"{stage}/{level}"


def waits(place: str) -> bool:
    """True if everything before this group must be written first. Patients do not wait for each other."""
    return not place.startswith(PATIENTS)


def _stage(key: Key, resource: Json, source: str) -> tuple[str, str]:
    if key.type == "Patient":
        return PATIENTS, key.id
    for name in _PATIENT:
        patient = _patient(resource.get(name), source)
        if patient:
            return PATIENTS, patient
    if key.type == "Binary":
        return SHARED, ""  # documents link to it
    found = targets(resource, source)
    patients = {each.id for each in found if each.type == "Patient"}
    if len(patients) == 1:
        return PATIENTS, patients.pop()
    named = {each.type for each in found} | {each.type for each in queries(resource, source)}
    if patients or "Patient" in named or any(level_of(each) > _SHARED_LEVEL for each in named):
        return REST, ""
    return SHARED, ""


def _patient(value: Any, source: str) -> str:
    key = read_reference(as_object(value).get("reference"), source)
    return key.id if key is not None and key.type == "Patient" else ""
