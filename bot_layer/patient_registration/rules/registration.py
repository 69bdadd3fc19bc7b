"""What to do to have a patient in Health Gorilla's index: create, update, nothing, refuse, or ask a person.

The id that the index knows a patient by must stay the same: federated queries ask by it.
https://hl7.org/fhir/R4/patient.html
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final

from bot_layer.errors import InputError, ReviewNeeded
from bot_layer.fhir.json import Json
from bot_layer.patient_registration.rules.index_patient import ClinicPatient, Policy, Registration
from bot_layer.patient_registration.rules.same_person import differences, is_alike, is_somebody_else


@dataclass(frozen=True)
class Found:
    """What Health Gorilla has: what the searches found, and the registration under the id that Medplum recorded."""

    by_identifier: Sequence[Registration] = ()
    by_demographics: Sequence[Registration] = ()
    recorded: Registration | None = None


@dataclass(frozen=True)
class Context:
    """What Medplum knows beside the Patient, and what the caller says.

    ``former`` are the ids of the Patients that were merged into this one: queries by them lead here already.
    ``not_same`` are the ids of Patients of whom a person said that they are somebody else. ``force`` lets a changed id,
    a vanished registration, contradicting demographics, or a namesake with other marks be written.
    """

    former: tuple[str, ...] = ()
    not_same: frozenset[str] = frozenset()
    force: bool = False


@dataclass(frozen=True)
class Create:
    """The index does not know the patient: post this."""

    action: ClassVar = "registered"
    body: Json = field(repr=False)
    external_id: str = field(default="", repr=False)


@dataclass(frozen=True)
class Update:
    """The index knows the patient, who differs in ``changed``: put this under ``id``, if it still has its version."""

    action: ClassVar = "updated"
    id: str
    body: Json = field(repr=False)
    changed: tuple[str, ...] = ()
    external_id: str = field(default="", repr=False)


@dataclass(frozen=True)
class NothingToDo:
    """The index knows the patient under ``id``, and nothing differs."""

    action: ClassVar = "unchanged"
    id: str
    external_id: str = field(default="", repr=False)


Act = Create | Update | NothingToDo
_NO_CONTEXT: Final = Context()


def plan(patient: ClinicPatient, found: Found, policy: Policy, context: Context = _NO_CONTEXT) -> Act:
    """What to do for this patient. InputError or ReviewNeeded where nothing may be done."""
    require_registrable(patient, policy)
    recorded = patient.health_gorilla_ids
    if len(recorded) > 1:
        text = "The Patient in Medplum has several Health Gorilla ids: keep one."
        raise ReviewNeeded(text, code="several-health-gorilla-ids")
    if _is_dead_for(policy, patient) and not recorded and not found.by_identifier:
        raise _deceased()
    candidates = _candidates(patient, found, policy, context)
    others = [theirs for theirs in candidates if _is_of_another(theirs, patient, policy, context)]
    if len(candidates) > 1 and len(others) == len(candidates):
        raise _registered_as_another(patient, others)
    if len(candidates) > 1:
        text = f"Health Gorilla has {len(candidates)} patients that match: have them merged if they are one person."
        raise ReviewNeeded(text, code="several-matches")
    if candidates:
        return _plan_known(patient, candidates[0], policy, context)
    if recorded and not context.force:
        text = "Health Gorilla does not know the id in Medplum: ask it, or call with force to register again."
        raise ReviewNeeded(text, code="registration-vanished")
    if _is_dead_for(policy, patient):
        raise _deceased()
    return Create(patient.body(policy, patient.external_ids[0]), patient.external_ids[0])


def endings(patient: ClinicPatient, found: Found) -> list[Update]:
    """The updates that make every registration of the patient inactive; none where there is none in force."""
    own = [*found.by_identifier, *([found.recorded] if found.recorded else [])]
    own += [theirs for theirs in found.by_demographics if theirs.id in patient.health_gorilla_ids]
    return [
        Update(theirs.id, theirs.ended(), ("active",))
        for theirs in {each.id: each for each in own}.values()
        if theirs.is_active
    ]


def require_registrable(patient: ClinicPatient, policy: Policy) -> None:
    """Raise InputError for a patient who must not be registered, before anything is looked up."""
    if patient.is_merged:
        text = "The Patient was merged into another: register that one."
        raise InputError(text, code="patient-merged", expression=["Patient.link"])
    if not patient.is_active:
        raise InputError("The Patient is not active.", code="patient-inactive", expression=["Patient.active"])
    if patient.is_test and not policy.test_patients:
        text = "Test patients are not registered unless it is configured."
        raise InputError(text, code="test-patient", expression=["Patient.meta.tag"])
    missing = patient.missing(policy)
    if missing and _is_dead_for(policy, patient) and not patient.health_gorilla_ids:
        raise _deceased()
    if missing:
        elements = ", ".join(expression.removeprefix("Patient.") for expression in missing)
        text = f"Registration needs these elements as well: {elements}."
        raise InputError(text, code="missing-demographics", expression=missing)


def _is_dead_for(policy: Policy, patient: ClinicPatient) -> bool:
    """Whether the patient is deceased, and the clinic does not register deceased patients."""
    return patient.is_deceased and not policy.deceased


def _plan_known(patient: ClinicPatient, theirs: Registration, policy: Policy, context: Context) -> Update | NothingToDo:
    recorded = patient.health_gorilla_ids
    # The id under which the index knows the patient already, else the one for a new registration.
    known = (each for each in patient.external_ids if (policy.patient_system, each) in theirs.numbers)
    external = next(known, patient.external_ids[0])
    pt = (policy.patient_system, external)
    is_ours = pt in theirs.numbers
    if recorded and theirs.id not in recorded and not (is_ours and context.force):
        text = "The Health Gorilla id in Medplum differs from the one found."
        raise ReviewNeeded(text, code="health-gorilla-id-differs")
    if not theirs.is_active and theirs.id not in patient.ended_ids:
        text = "The patient is inactive in Health Gorilla: ask Health Gorilla to reactivate it."
        raise ReviewNeeded(text, code="registration-inactive")
    if not is_ours:
        is_another = _is_of_another(theirs, patient, policy, context)
        if is_another and not recorded:
            raise _registered_as_another(patient, [theirs])
        if is_another and not context.force:
            text = "The patient's id would change, and networks query by it: call with force if this is intended."
            raise InputError(text, code="identifier-changed", expression=["Patient.identifier"])
        if patient.demographics.gender != theirs.demographics.gender and not recorded:
            raise _contradictory("A patient of this name and birth date has another gender in Health Gorilla.")
    if is_somebody_else(patient.demographics, theirs.demographics) and not context.force:
        raise _contradictory("The patient under this id has another name and birth date in Health Gorilla.")
    changed = theirs.differs_from(patient, pt)
    if not changed:
        return NothingToDo(theirs.id, external)
    return Update(theirs.id, theirs.merged_with(patient.body(policy, external)), changed, external)


def _deceased() -> InputError:
    text = "Deceased patients are not registered unless it is configured."
    return InputError(text, code="patient-deceased", expression=["Patient.deceased"])


def _contradictory(text: str) -> ReviewNeeded:
    return ReviewNeeded(text, code="contradictory-demographics")


def _registered_as_another(patient: ClinicPatient, others: Sequence[Registration]) -> ReviewNeeded:
    """The advice depends on what differs: if nothing does, only somebody who knows both people can decide."""
    marks = sorted({mark for theirs in others for mark in differences(patient.demographics, theirs.demographics).marks})
    differing = f" They differ in {', '.join(marks)}: force registers the patient." if marks else ""
    text = (
        "A patient of this name and birth date is registered under another id. If it is the same person, merge the two "
        f"Patients in Medplum; if they are two people, call again with notSameAs.{differing}"
    )
    return ReviewNeeded(text, code="registered-as-another")


def _candidates(patient: ClinicPatient, found: Found, policy: Policy, context: Context) -> list[Registration]:
    """The registrations that may be this patient's. If one is found by identifier, namesakes do not count."""
    recorded, by_identifier = patient.health_gorilla_ids, list(found.by_identifier)
    own = [theirs for theirs in by_identifier if theirs.id in recorded]
    alike = [theirs for theirs in found.by_demographics if is_alike(patient.demographics, theirs.demographics)]
    meant = [
        theirs for theirs in alike if theirs.id in recorded or not _is_only_namesake(patient, theirs, policy, context)
    ]
    chosen = own or by_identifier or meant or ([found.recorded] if found.recorded else [])
    return list({theirs.id: theirs for theirs in chosen}.values())


def _is_only_namesake(patient: ClinicPatient, theirs: Registration, policy: Policy, context: Context) -> bool:
    """Whether a namesake is somebody else: a person said so, or two marks differ, with ``force`` also a single one."""
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
