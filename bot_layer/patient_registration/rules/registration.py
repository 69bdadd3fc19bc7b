"""What to do to have a patient in Health Gorilla's index: create, update, nothing, refuse, or ask a person.

The id that the index knows a patient by must stay the same: federated queries ask by it.
https://hl7.org/fhir/R4/patient.html
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bot_layer.patient_registration.rules.index_patient import ClinicPatient, Policy, Registration
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
from bot_layer.patient_registration.rules.same_person import differences, is_alike, is_somebody_else

_NO_CONTEXT: Final = Context()
_DECEASED: Final = Refuse(
    "patient-deceased", "Deceased patients are not registered unless it is configured.", ("Patient.deceased",)
)


def plan(patient: ClinicPatient, found: Found, policy: Policy, context: Context = _NO_CONTEXT) -> Plan:
    """What to do for this patient."""
    refused = refusal(patient, policy)
    if refused is not None:
        return refused
    recorded = patient.health_gorilla_ids
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
        return _plan_new(patient, policy, force=context.force)
    return _plan_known(patient, candidates[0], policy, context)


def endings(patient: ClinicPatient, found: Found) -> list[Update]:
    """The updates that make every registration of the patient inactive; none where there is none in force."""
    own = [*found.by_identifier, *([found.recorded] if found.recorded else [])]
    own += [theirs for theirs in found.by_demographics if theirs.id in patient.health_gorilla_ids]
    return [
        Update(theirs.id, theirs.ended(), ("active",), theirs.version)
        for theirs in {each.id: each for each in own}.values()
        if theirs.is_active
    ]


def refusal(patient: ClinicPatient, policy: Policy) -> Refuse | None:
    """Why this patient must not be registered, before anything is looked up; None where it may be."""
    if patient.is_merged:
        return Refuse("patient-merged", "The Patient was merged into another: register that one.", ("Patient.link",))
    if not patient.is_active:
        return Refuse("patient-inactive", "The Patient is not active.", ("Patient.active",))
    if patient.is_test and not policy.test_patients:
        return Refuse(
            "test-patient", "Test patients are not registered unless it is configured.", ("Patient.meta.tag",)
        )
    missing = patient.missing(policy)
    if missing and _is_dead_for(policy, patient) and not patient.health_gorilla_ids:
        return _DECEASED
    if missing:
        elements = ", ".join(expression.removeprefix("Patient.") for expression in missing)
        return Refuse("missing-demographics", f"Registration needs these elements as well: {elements}.", missing)
    return None


def registered_id(patient: ClinicPatient, theirs: Registration, policy: Policy) -> str:
    """The id under which the index knows the patient already, else the one for a new registration."""
    known = (each for each in patient.external_ids if (policy.patient_system, each) in theirs.numbers)
    return next(known, patient.external_ids[0])


def _is_dead_for(policy: Policy, patient: ClinicPatient) -> bool:
    """Whether the patient died, and the clinic registers no deceased patients anew."""
    return patient.is_deceased and not policy.deceased


def _plan_new(patient: ClinicPatient, policy: Policy, *, force: bool) -> Plan:
    if patient.health_gorilla_ids and not force:
        return Review(
            "registration-vanished",
            "Medplum has an id that Health Gorilla does not know: ask Health Gorilla, or call with force to register "
            "again.",
        )
    if _is_dead_for(policy, patient):
        return _DECEASED
    external_id = patient.external_ids[0]
    return Create(patient.body(policy, external_id), external_id)


def _plan_known(patient: ClinicPatient, theirs: Registration, policy: Policy, context: Context) -> Plan:
    recorded, external = patient.health_gorilla_ids, registered_id(patient, theirs, policy)
    pt = (policy.patient_system, external)
    is_ours = pt in theirs.numbers
    if recorded and theirs.id not in recorded and not (is_ours and context.force):
        return Review("health-gorilla-id-differs", "The Health Gorilla id in Medplum differs from the one found.")
    if not theirs.is_active and theirs.id not in patient.ended_ids:
        return Review(
            "registration-inactive", "The patient is inactive in Health Gorilla: ask Health Gorilla to reactivate it."
        )
    if not is_ours:
        if _is_of_another(theirs, patient, policy, context) and not (recorded and context.force):
            return _changed_identifier() if recorded else _registered_as_another(patient, [theirs])
        if patient.demographics.gender != theirs.demographics.gender and not recorded:
            return Review(
                "contradictory-demographics", "A patient of this name and birth date has another gender there."
            )
    if is_somebody_else(patient.demographics, theirs.demographics) and not context.force:
        return Review("contradictory-demographics", "The patient under this id has another name and birth date there.")
    changed = theirs.differs_from(patient, pt)
    if not changed:
        return NothingToDo(theirs.id, external)
    return Update(theirs.id, theirs.merged_with(patient.body(policy, external)), changed, theirs.version, external)


def _changed_identifier() -> Refuse:
    return Refuse(
        "identifier-changed",
        "The id that the patient is registered under would change, and networks query by it: "
        "call with force if this is intended.",
        ("Patient.identifier",),
    )


def _registered_as_another(patient: ClinicPatient, others: Sequence[Registration]) -> Review:
    """The advice depends on the marks: where nothing differs, only a person who knows both can tell them apart."""
    marks = sorted({mark for theirs in others for mark in differences(patient.demographics, theirs.demographics).marks})
    differing = f" They differ in {', '.join(marks)}: force registers the patient." if marks else ""
    return Review(
        "registered-as-another",
        "A patient of this name and birth date is registered under another id. If it is the same person, merge the two "
        f"Patients in Medplum; if they are two people, call again with notSameAs.{differing}",
    )


def _candidates(patient: ClinicPatient, found: Found, policy: Policy, context: Context) -> list[Registration]:
    """Whom the index may know as this patient. Whoever is found by identifier is; a namesake is not compared then."""
    recorded, by_identifier = patient.health_gorilla_ids, list(found.by_identifier)
    own = [theirs for theirs in by_identifier if theirs.id in recorded]
    alike = [theirs for theirs in found.by_demographics if is_alike(patient.demographics, theirs.demographics)]
    meant = [
        theirs for theirs in alike if theirs.id in recorded or not _is_told_apart(patient, theirs, policy, context)
    ]
    chosen = own or by_identifier or meant or ([found.recorded] if found.recorded else [])
    return list({theirs.id: theirs for theirs in chosen}.values())


def _is_told_apart(patient: ClinicPatient, theirs: Registration, policy: Policy, context: Context) -> bool:
    """Whether a namesake is somebody else: a person said so, or the marks say so, with ``force`` also a single one."""
    ids = {value for _, value in theirs.numbers}
    if context.not_same & {*ids, theirs.id}:
        return True
    if set(context.former) & ids:
        return False
    found = differences(patient.demographics, theirs.demographics)
    is_another = _is_of_another(theirs, patient, policy, context)
    return found.are_two_people or (context.force and is_another and bool(found.marks))


def _is_of_another(theirs: Registration, patient: ClinicPatient, policy: Policy, context: Context) -> bool:
    """Whether a registration carries the id of another patient of this clinic, who was not merged into this one.

    A number of this patient that is not in force any more gives way to the one in force, if the registration is this
    patient's own.
    """
    given_up = patient.former_ids if theirs.id in patient.health_gorilla_ids else ()
    known = {*patient.external_ids, *context.former, *given_up}
    return any(system != policy.patient_system or value not in known for system, value in theirs.pts)
