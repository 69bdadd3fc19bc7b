"""What to do to have a patient in Health Gorilla's index: create, update, nothing, refuse, or ask a person.

The id that the index knows a patient by must stay the same: federated queries ask by it.
https://hl7.org/fhir/R4/patient.html
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bot_layer.fhir import demographics
from bot_layer.fhir.json import Json, text
from bot_layer.patient_registration.rules import index_patient
from bot_layer.patient_registration.rules.index_patient import Policy, build, pt_identifier
from bot_layer.patient_registration.rules.patient_state import is_deceased, is_test, replaced_by
from bot_layer.patient_registration.rules.plans import (
    Context,
    Create,
    Found,
    NothingToDo,
    Plan,
    Refuse,
    Review,
    Update,
)
from bot_layer.patient_registration.rules.same_person import Differences, differences, is_alike, is_somebody_else

_NO_CONTEXT: Final = Context()
_DECEASED: Final = Refuse(
    "patient-deceased", "Deceased patients are not registered unless it is configured.", ("Patient.deceased",)
)


def plan(patient: Json, found: Found, policy: Policy, context: Context = _NO_CONTEXT) -> Plan:
    """What to do for this patient."""
    refused = refusal(patient, policy)
    if refused is not None:
        return refused
    recorded = index_patient.health_gorilla_ids(patient)
    if len(recorded) > 1:
        return Review("several-health-gorilla-ids", "The Patient in Medplum has several Health Gorilla ids: keep one.")
    if _is_dead_for(policy, patient) and not recorded and not found.by_identifier:
        return _DECEASED
    candidates = _candidates(patient, found, policy, context)
    others = [theirs for theirs in candidates if _is_of_another(theirs, patient, policy, context)]
    if len(candidates) > 1 and len(others) == len(candidates):
        return _registered_as_another(patient, others)
    if len(candidates) > 1:
        return Review(
            "several-matches",
            f"Health Gorilla has {len(candidates)} patients that match: if they are one person, have them merged "
            "there first.",
        )
    if not candidates:
        return _plan_new(patient, policy, recorded=bool(recorded), force=context.force)
    return _plan_known(patient, candidates[0], policy, context, recorded=recorded)


def endings(patient: Json, found: Found) -> list[Update]:
    """The updates that make every registration of the patient inactive; none where there is none in force.

    Health Gorilla knows no way to delete a registration: inactive is as far as it goes.
    """
    recorded = index_patient.health_gorilla_ids(patient)
    candidates = [*found.by_identifier, *([found.recorded] if found.recorded else [])]
    own = {str(theirs.get("id")): theirs for theirs in candidates}
    alike = {str(theirs.get("id")): theirs for theirs in found.by_demographics if str(theirs.get("id")) in recorded}
    return [
        Update(identifier, {**_without(theirs, "text"), "active": False}, ("active",), _version(theirs))
        for identifier, theirs in (own | alike).items()
        if theirs.get("active") is not False
    ]


def refusal(patient: Json, policy: Policy) -> Refuse | None:
    """Why this patient must not be registered, before anything is looked up; None where it may be."""
    if replaced_by(patient) is not None:
        return Refuse("patient-merged", "The Patient was merged into another: register that one.", ("Patient.link",))
    if patient.get("active") is False:
        return Refuse("patient-inactive", "The Patient is not active.", ("Patient.active",))
    if is_test(patient) and not policy.test_patients:
        return Refuse(
            "test-patient", "Test patients are not registered unless it is configured.", ("Patient.meta.tag",)
        )
    missing = index_patient.missing_demographics(patient, policy)
    if missing and _is_dead_for(policy, patient) and not index_patient.health_gorilla_ids(patient):
        return _DECEASED
    if missing:
        elements = ", ".join(expression.removeprefix("Patient.") for expression in missing)
        return Refuse("missing-demographics", f"Registration needs these elements as well: {elements}.", missing)
    return None


def _is_dead_for(policy: Policy, patient: Json) -> bool:
    """Whether the patient died, and the clinic registers no deceased patients anew."""
    return is_deceased(patient) and not policy.deceased


def _plan_new(patient: Json, policy: Policy, *, recorded: bool, force: bool) -> Plan:
    if recorded and not force:
        return Review(
            "registration-vanished",
            "Medplum has an id that Health Gorilla does not know: ask Health Gorilla, or call with force to register "
            "again.",
        )
    if _is_dead_for(policy, patient):
        return _DECEASED
    body = build(patient, policy)
    return Create(body, body["identifier"][0]["value"])


def _plan_known(patient: Json, theirs: Json, policy: Policy, context: Context, *, recorded: Sequence[str]) -> Plan:
    identifier, external = str(theirs.get("id")), registered_id(patient, theirs, policy)
    ours = build(patient, policy, external)
    is_ours = index_patient.holds_pt(theirs, ours["identifier"][0])
    if recorded and identifier not in recorded and not (is_ours and context.force):
        return Review("health-gorilla-id-differs", "The Health Gorilla id in Medplum differs from the one found.")
    if theirs.get("active") is False and identifier not in index_patient.ended_health_gorilla_ids(patient):
        return Review(
            "registration-inactive", "The patient is inactive in Health Gorilla: ask Health Gorilla to reactivate it."
        )
    if not is_ours:
        if _is_of_another(theirs, patient, policy, context) and not (recorded and context.force):
            return _changed_identifier() if recorded else _registered_as_another(patient, [theirs])
        if ours["gender"] != theirs.get("gender") and not recorded:
            return Review(
                "contradictory-demographics", "A patient of this name and birth date has another gender there."
            )
    if is_somebody_else(patient, theirs) and not context.force:
        return Review("contradictory-demographics", "The patient under this id has another name and birth date there.")
    changed = index_patient.differences(ours, theirs)
    if not changed:
        return NothingToDo(identifier, external)
    return Update(identifier, index_patient.merge(ours, theirs), changed, _version(theirs), external)


def registered_id(patient: Json, theirs: Json, policy: Policy) -> str:
    """The id under which the index knows the patient already, else the one for a new registration."""
    ids = index_patient.external_ids(patient, policy)
    return next((each for each in ids if index_patient.holds_pt(theirs, pt_identifier(policy, each))), ids[0])


def _changed_identifier() -> Refuse:
    return Refuse(
        "identifier-changed",
        "The id that the patient is registered under would change, and networks query by it: "
        "call with force if this is intended.",
        ("Patient.identifier",),
    )


def _registered_as_another(patient: Json, others: Sequence[Json]) -> Review:
    """The advice depends on the marks: where nothing differs, only a person who knows both can tell them apart."""
    marks = sorted(set[str]().union(*(_marks(differences(patient, theirs)) for theirs in others)))
    differing = f" They differ in {', '.join(marks)}: force registers the patient." if marks else ""
    return Review(
        "registered-as-another",
        "A patient of this name and birth date is registered under another id. If it is the same person, merge the two "
        f"Patients in Medplum; if they are two people, call again with notSameAs.{differing}",
    )


def _candidates(patient: Json, found: Found, policy: Policy, context: Context) -> list[Json]:
    """Whom the index may know as this patient. Whoever is found by identifier is; a namesake is not compared then."""
    recorded = index_patient.health_gorilla_ids(patient)
    by_identifier = list(found.by_identifier)
    own = [theirs for theirs in by_identifier if str(theirs.get("id")) in recorded]
    alike = [theirs for theirs in found.by_demographics if is_alike(patient, theirs)]
    meant = [
        theirs
        for theirs in alike
        if str(theirs.get("id")) in recorded or not _is_told_apart(patient, theirs, policy, context)
    ]
    chosen = own or by_identifier or meant or ([found.recorded] if found.recorded else [])
    return list({str(theirs.get("id")): theirs for theirs in chosen}.values())


def _is_told_apart(patient: Json, theirs: Json, policy: Policy, context: Context) -> bool:
    """Whether a namesake is somebody else: a person said so, or the marks say so, with ``force`` also a single one."""
    ids = {str(entry.get("value")) for entry in demographics.entries(theirs.get("identifier"))}
    if context.not_same & {*ids, str(theirs.get("id"))}:
        return True
    if set(context.former) & ids:
        return False
    marks = differences(patient, theirs)
    is_another = _is_of_another(theirs, patient, policy, context)
    return marks.are_two_people or (context.force and is_another and bool(_marks(marks)))


def _is_of_another(theirs: Json, patient: Json, policy: Policy, context: Context) -> bool:
    """Whether a registration carries the id of another patient of this clinic, who was not merged into this one."""
    known = {*index_patient.external_ids(patient, policy), *context.former}
    ours = pt_identifier(policy, index_patient.external_ids(patient, policy)[0])
    others = index_patient.other_pts(theirs, ours)
    return any(each.get("system") != policy.patient_system or text(each.get("value")) not in known for each in others)


def _marks(found: Differences) -> frozenset[str]:
    return found.strong | found.weak


def _without(resource: Json, name: str) -> Json:
    return {key: value for key, value in resource.items() if key != name}


def _version(theirs: Json) -> str | None:
    meta = theirs.get("meta")
    return str(meta["versionId"]) if isinstance(meta, dict) and meta.get("versionId") else None
