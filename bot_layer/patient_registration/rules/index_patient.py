"""A patient as the index holds it: built from Medplum's, compared with what is there, and put without losing theirs.

The patient is known there by one identifier of type PT, under which federated queries ask for it. One more identifier
stands on Medplum's side: Health Gorilla's id. https://terminology.hl7.org/CodeSystem-v2-0203.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bot_layer.fhir import demographics
from bot_layer.fhir.contact_points import contact_points, same_contact_points
from bot_layer.fhir.identifiers import HEALTH_GORILLA_SYSTEM, V2_0203, V2_0203_SYSTEMS
from bot_layer.fhir.json import Json, text
from bot_layer.fhir.social_security import is_ssn

_GENDERS: Final = frozenset({"male", "female"})
_OTHER_GENDERS: Final = frozenset({"other", "unknown"})
_IDENTIFIER_USES: Final = {"official": 0, "usual": 1}
_MOST_EXTERNAL_IDS: Final = 10


@dataclass(frozen=True)
class Policy:
    """The clinic's choices. ``identifier_system`` None: the PT identifier's value is the Medplum Patient's id."""

    patient_system: str
    identifier_system: str | None = None
    other_genders: bool = False
    test_patients: bool = False
    deceased: bool = False


def missing_demographics(patient: Json, policy: Policy) -> tuple[str, ...]:
    """Every required element that is absent or unusable, as FHIRPath."""
    name, address = demographics.current_name(patient), demographics.current_address(patient)
    genders = _GENDERS | _OTHER_GENDERS if policy.other_genders else _GENDERS
    absent = {
        "Patient.name.family": not name.get("family"),
        "Patient.name.given": not name.get("given"),
        "Patient.birthDate": not demographics.full_birth_date(patient.get("birthDate")),
        "Patient.gender": text(patient.get("gender")) not in genders,
        **{f"Patient.address.{part}": True for part in demographics.missing_address_parts(address)},
        "Patient.identifier" if policy.identifier_system else "Patient.id": not external_ids(patient, policy),
    }
    return tuple(expression for expression, is_absent in absent.items() if is_absent)


def external_ids(patient: Json, policy: Policy) -> tuple[str, ...]:
    """The ids by which federated queries may ask for the patient: Medplum's own, or those of the configured system.

    The first one is what a new registration is made under. The order does not depend on that of the identifiers; a
    social security number is never among them.
    """
    if policy.identifier_system is None:
        return tuple(filter(None, [demographics.words(patient.get("id"))]))
    entries = demographics.entries(patient.get("identifier"))
    uses = {demographics.words(entry.get("value")): entry.get("use") for entry in reversed(entries)}
    found = _values(patient, policy.identifier_system)
    ranked = sorted(found, key=lambda value: (_IDENTIFIER_USES.get(str(uses.get(value)), 2), value))
    return tuple(ranked[:_MOST_EXTERNAL_IDS])


def health_gorilla_ids(patient: Json) -> tuple[str, ...]:
    """The Health Gorilla ids in force that a Medplum Patient carries, each once."""
    return _values(patient, HEALTH_GORILLA_SYSTEM)


def ended_health_gorilla_ids(patient: Json) -> frozenset[str]:
    """The Health Gorilla ids that a Medplum Patient carries as old ones."""
    entries = demographics.entries(patient.get("identifier"))
    own = [each for each in entries if each.get("system") == HEALTH_GORILLA_SYSTEM and each.get("use") == "old"]
    return frozenset(filter(None, (demographics.words(each.get("value")) for each in own)))


def with_health_gorilla_id(patient: Json, identifier: str | None) -> Json:
    """Medplum's Patient with this Health Gorilla id as its only one in force, or with none; itself if so already."""
    if health_gorilla_ids(patient) == ((identifier,) if identifier else ()):
        return patient
    entries = demographics.entries(patient.get("identifier"))
    is_new = identifier is not None and (HEALTH_GORILLA_SYSTEM, identifier)
    kept = [
        {**entry, "use": "old"} if entry.get("system") == HEALTH_GORILLA_SYSTEM else entry
        for entry in entries
        if (entry.get("system"), entry.get("value")) != is_new
    ]
    added = [{"system": HEALTH_GORILLA_SYSTEM, "value": identifier}] if identifier else []
    return {**patient, "identifier": [*kept, *added]}


def build(patient: Json, policy: Policy, external_id: str | None = None) -> Json:
    """The Patient as Health Gorilla takes it: only what it asks for, nothing invented, no part without a value."""
    built: Json = {
        "resourceType": "Patient",
        "identifier": [pt_identifier(policy, external_id or external_ids(patient, policy)[0])],
        "name": [{"use": "usual", **demographics.current_name(patient)}],
        "gender": patient["gender"],
        "birthDate": demographics.full_birth_date(patient["birthDate"]),
        "address": [demographics.current_address(patient)],
    }
    points = contact_points(patient.get("telecom"))
    return {**built, "telecom": points} if points else built


def differences(ours: Json, theirs: Json) -> tuple[str, ...]:
    """The elements in which the registered patient differs from what would be sent now."""
    unequal = {
        "identifier": not holds_pt(theirs, ours["identifier"][0]) or other_pts(theirs, ours["identifier"][0]),
        "name": not demographics.same_name(ours["name"][0], demographics.current_name(theirs)),
        "birthDate": ours["birthDate"] != theirs.get("birthDate"),
        "gender": ours["gender"] != theirs.get("gender"),
        "address": not demographics.same_address(ours["address"][0], demographics.current_address(theirs)),
        "telecom": not same_contact_points(ours.get("telecom", ()), contact_points(theirs.get("telecom"))),
        "active": theirs.get("active") is False,
    }
    return tuple(element for element, differs in unequal.items() if differs)


def merge(ours: Json, theirs: Json) -> Json:
    """The resource to put: theirs with our demographics, their own identifiers kept, the PT identifier ours."""
    kept = {key: value for key, value in theirs.items() if key not in {"text", "telecom"}}
    stale = other_pts(theirs, ours["identifier"][0])
    others = [entry for entry in demographics.entries(theirs.get("identifier")) if entry not in stale]
    own = [] if holds_pt(theirs, ours["identifier"][0]) else ours["identifier"]
    merged = {**kept, **ours, "identifier": [*others, *own]}
    return {**merged, "active": True} if theirs.get("active") is False else merged


def shown(body: Json) -> Json:
    """A payload as a preview shows it: without social security numbers, which Health Gorilla's record may hold."""
    identifiers = [each for each in demographics.entries(body.get("identifier")) if not is_ssn(each)]
    return {**body, "identifier": identifiers}


def pt_identifier(policy: Policy, external_id: str) -> Json:
    """The identifier by which the index knows a patient."""
    words = "Patient external identifier"
    return {
        "type": {"coding": [{"system": V2_0203, "code": "PT", "display": words}], "text": words},
        "system": policy.patient_system,
        "value": external_id,
    }


def holds_pt(theirs: Json, pt: Json) -> bool:
    """Whether the registered patient carries this identifier."""
    return any(
        (entry.get("system"), entry.get("value")) == (pt["system"], pt["value"])
        for entry in demographics.entries(theirs.get("identifier"))
    )


def other_pts(theirs: Json, pt: Json) -> list[Json]:
    """Their PT identifiers that are not ours: a patient may be asked for by one of them only."""
    return [
        entry
        for entry in demographics.entries(theirs.get("identifier"))
        if _is_pt(entry, pt["system"]) and (entry.get("system"), entry.get("value")) != (pt["system"], pt["value"])
    ]


def _is_pt(identifier: Json, system: str) -> bool:
    kind = identifier.get("type")
    codings = demographics.entries(kind.get("coding")) if isinstance(kind, dict) else ()
    typed = any(coding.get("code") == "PT" and text(coding.get("system")) in V2_0203_SYSTEMS for coding in codings)
    return typed or identifier.get("system") == system


def _values(patient: Json, system: str) -> tuple[str, ...]:
    own = (
        entry
        for entry in demographics.entries(patient.get("identifier"))
        if entry.get("system") == system and entry.get("use") != "old" and not is_ssn(entry)
    )
    return tuple(dict.fromkeys(filter(None, (demographics.words(entry.get("value")) for entry in own))))
