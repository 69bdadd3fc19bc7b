"""What a Patient's record says about its own state: merged, test data, deceased."""

from __future__ import annotations

from bot_layer.fhir import security_labels
from bot_layer.fhir.json import Json, objects


def replaced_by(patient: Json) -> str | None:
    """The reference of the Patient that this one was merged into, or None."""
    for link in objects(patient.get("link")):
        other = link.get("other")
        if link.get("type") == "replaced-by" and isinstance(other, dict) and other.get("reference"):
            return str(other["reference"])
    return None


def is_test(patient: Json) -> bool:
    """Whether the Patient is marked as test data: HTEST as a tag or as a security label."""
    meta = patient.get("meta")
    marks = [*objects(meta.get("tag")), *objects(meta.get("security"))] if isinstance(meta, dict) else []
    return any((mark.get("system"), mark.get("code")) == security_labels.TEST_DATA for mark in marks)


def is_deceased(patient: Json) -> bool:
    """Whether the Patient is recorded as deceased."""
    return patient.get("deceasedBoolean") is True or bool(patient.get("deceasedDateTime"))
