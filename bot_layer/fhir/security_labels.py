"""Security labels: how confidential a resource is, and whether it may be disclosed at all.

A label that is not understood counts as the highest level, because it was written to restrict something.
https://hl7.org/fhir/R4/security-labels.html and https://terminology.hl7.org/CodeSystem-v3-Confidentiality.html
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from bot_layer.fhir.json import Json, as_list, objects

LEVELS: Final = ("U", "L", "M", "N", "R", "V")
"""The codes of v3-Confidentiality: unrestricted, low, moderate, normal, restricted, very restricted."""
HIGHEST: Final = LEVELS[-1]
CONFIDENTIALITY_SYSTEM: Final = "http://terminology.hl7.org/CodeSystem/v3-Confidentiality"
TEST_DATA: Final = ("http://terminology.hl7.org/CodeSystem/v3-ActReason", "HTEST")

_CONFIDENTIALITY_SYSTEMS: Final = frozenset(
    {CONFIDENTIALITY_SYSTEM, "http://hl7.org/fhir/v3/Confidentiality", "urn:oid:2.16.840.1.113883.5.25"}
)
# v3-ActCode: no disclosure without the patient's authorization, no disclosure at all, no disclosure without a
# consent directive, no collection. They forbid disclosure whatever the highest level is that a clinic allows.
_FORBIDDING: Final = frozenset({"NOAUTH", "NODSCLCD", "NODSCLCDS", "NOCOLLECT", "NOINTEGRATE", "NOLIST"})


def resource_labels(resource: Json) -> list[object]:
    """The labels of any resource (``meta.security``); what is not a list of labels counts as one unknown label."""
    meta = resource.get("meta")
    if meta is None:
        return []
    return as_list(meta.get("security")) if isinstance(meta, dict) else [meta]


def document_labels(document: Json) -> list[object]:
    """The labels of a DocumentReference: ``securityLabel`` and ``meta.security``."""
    return [*as_list(document.get("securityLabel")), *resource_labels(document)]


def level(labels: Iterable[object]) -> str | None:
    """The highest confidentiality that the labels say, one of ``LEVELS``; None where there are no labels.

    A label is a Coding or a CodeableConcept. An unknown code, a code without a system, or text alone is the highest.
    """
    found = [coding for label in labels for coding in _codings(label) if _pair(coding) != TEST_DATA]
    return max(map(_level, found), key=LEVELS.index) if found else None


def exceeds(labels: Iterable[object], highest: str, *, unlabelled: str = "U") -> bool:
    """Whether a resource with these labels is too confidential if ``highest`` is the highest level to disclose."""
    found = list(labels)
    if forbids_disclosure(found):
        return True
    return LEVELS.index(level(found) or unlabelled) > LEVELS.index(highest)


def forbids_disclosure(labels: Iterable[object]) -> bool:
    """Whether a label forbids disclosure by itself, such as NOAUTH; its system and case do not matter."""
    return any(str(coding.get("code")).upper() in _FORBIDDING for label in labels for coding in _codings(label))


def _level(coding: Json) -> str:
    system, code = _pair(coding)
    return code if system in _CONFIDENTIALITY_SYSTEMS and code in LEVELS else HIGHEST


def _codings(label: object) -> list[Json]:
    """The codings of a label; a label without codings is one empty coding, which counts as unknown."""
    if not isinstance(label, dict):
        return [{}]
    return (objects(label.get("coding")) or [{}]) if "coding" in label or "text" in label else [label]


def _pair(coding: Json) -> tuple[str, str]:
    return str(coding.get("system")), str(coding.get("code"))
