"""What to do to have a patient in Health Gorilla's index: create, update, nothing, refuse, or ask a person.

The id that the index knows a patient by must stay the same: federated queries ask by it.
https://hl7.org/fhir/R4/patient.html
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

from bot_layer.fhir import demographics
from bot_layer.fhir.json import Json
from bot_layer.patient_registration.rules import index_patient
from bot_layer.patient_registration.rules.index_patient import Policy, build

_TEST_TAG: Final = ("http://terminology.hl7.org/CodeSystem/v3-ActReason", "HTEST")


@dataclass(frozen=True)
class Found:
    """What Health Gorilla holds: the answers to the searches, and the resource under the id that Medplum recorded."""

    by_identifier: Sequence[Json] = ()
    by_demographics: Sequence[Json] = ()
    recorded: Json | None = None


@dataclass(frozen=True)
class Create:
    """The patient is unknown there: post this."""

    body: Json = field(repr=False)


@dataclass(frozen=True)
class Update:
    """The patient is known and differs in ``changed``: put this under ``id``, if it still has ``version``."""

    id: str
    body: Json = field(repr=False)
    changed: tuple[str, ...] = ()
    version: str | None = None


@dataclass(frozen=True)
class NothingToDo:
    """The patient is known under ``id`` and nothing differs."""

    id: str


@dataclass(frozen=True)
class Refuse:
    """The patient is not registered; ``expression`` names what the caller must change."""

    code: str
    text: str
    expression: tuple[str, ...] = ()


@dataclass(frozen=True)
class Review:
    """The records contradict each other: a person must look."""

    code: str
    text: str


Plan = Create | Update | NothingToDo | Refuse | Review


def plan(patient: Json, found: Found, policy: Policy, *, former: Collection[str] = (), force: bool = False) -> Plan:
    """What to do for this patient. ``force`` lets a changed PT identifier or a vanished registration be written.

    ``former`` are the ids of the Patients that were merged into this one: queries by them lead here already.
    """
    refused = refusal(patient, policy)
    if refused is not None:
        return refused
    recorded = index_patient.health_gorilla_ids(patient)
    if len(recorded) > 1:
        return Review("several-health-gorilla-ids", "Medplum's Patient carries several Health Gorilla ids: keep one.")
    candidates = _candidates(patient, found)
    if len(candidates) > 1:
        return Review(
            "several-matches",
            f"Health Gorilla holds {len(candidates)} patients that match: have them merged there first.",
        )
    if not candidates:
        return _plan_new(patient, policy, recorded=bool(recorded), force=force)
    return _plan_known(patient, candidates[0], policy, recorded=recorded, former=former, force=force)


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
    if missing:
        elements = ", ".join(expression.removeprefix("Patient.") for expression in missing)
        return Refuse("missing-demographics", f"Registration needs these elements as well: {elements}.", missing)
    return None


def replaced_by(patient: Json) -> str | None:
    """The reference of the Patient that this one was merged into, or None."""
    for link in demographics.entries(patient.get("link")):
        other = link.get("other")
        if link.get("type") == "replaced-by" and isinstance(other, dict) and other.get("reference"):
            return str(other["reference"])
    return None


def is_alike(patient: Json, theirs: Json) -> bool:
    """Same family name, first given name and birth date: the search may answer more loosely."""
    return _is_namesake(patient, theirs) and patient.get("birthDate") == theirs.get("birthDate")


def is_test(patient: Json) -> bool:
    """Whether the Patient is marked as test data (tag HTEST)."""
    meta = patient.get("meta")
    tags = demographics.entries(meta.get("tag")) if isinstance(meta, dict) else ()
    return any((tag.get("system"), tag.get("code")) == _TEST_TAG for tag in tags)


def is_deceased(patient: Json) -> bool:
    """Whether the Patient is recorded as deceased."""
    return patient.get("deceasedBoolean") is True or bool(patient.get("deceasedDateTime"))


def id_in_location(location: str | None, resource_type: str = "Patient") -> str | None:
    """The id that a Location header names, absolute or relative, versioned or not; None where it names none."""
    path = re.split(r"[?#]", (location or "").strip())[0]
    match = re.search(rf"(?:^|/){resource_type}/([A-Za-z0-9\-.]{{1,64}})(?:/_history(?:/[A-Za-z0-9\-.]*)?)?/?$", path)
    return match[1] if match else None


def idempotency_key(body: Json) -> str:
    """A UUID of version 4's shape that only the same payload gets again: a repeated create is then recognised."""
    digest = hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).digest()
    return str(uuid.UUID(bytes=digest[:16], version=4))


def _plan_new(patient: Json, policy: Policy, *, recorded: bool, force: bool) -> Plan:
    if recorded and not force:
        return Review(
            "registration-vanished",
            "Medplum records an id that Health Gorilla does not know: force a new registration, or ask there.",
        )
    if is_deceased(patient) and not policy.deceased:
        return Refuse(
            "patient-deceased",
            "A deceased patient is not newly registered unless it is configured.",
            ("Patient.deceased",),
        )
    return Create(build(patient, policy))


def _plan_known(
    patient: Json, theirs: Json, policy: Policy, *, recorded: Sequence[str], former: Collection[str], force: bool
) -> Plan:
    identifier, ours = str(theirs.get("id")), build(patient, policy)
    is_ours = index_patient.holds_pt(theirs, ours["identifier"][0])
    if recorded and identifier not in recorded and not (is_ours and force):
        return Review("health-gorilla-id-differs", "Medplum records another Health Gorilla id than the one found.")
    if theirs.get("active") is False:
        return Review("registration-inactive", "Health Gorilla holds this patient as inactive: have it revived there.")
    if not is_ours:
        others = index_patient.other_pts(theirs, ours["identifier"][0])
        are_former = all(each.get("system") == policy.patient_system and each.get("value") in former for each in others)
        if not are_former and not (recorded and force):
            return _changed_identifier(is_own=bool(recorded))
        if ours["gender"] != theirs.get("gender") and not recorded:
            return Review(
                "contradictory-demographics", "A patient of this name and birth date has another gender there."
            )
    if _is_somebody_else(ours, theirs) and not force:
        return Review("contradictory-demographics", "The patient under this id has another name and birth date there.")
    changed = index_patient.differences(ours, theirs)
    if not changed:
        return NothingToDo(identifier)
    return Update(identifier, index_patient.merge(ours, theirs), changed, _version(theirs))


def _changed_identifier(*, is_own: bool) -> Refuse | Review:
    if is_own:
        return Refuse(
            "identifier-changed",
            "The id that the patient is registered under would change, and queries ask by it: force it if meant.",
            ("Patient.identifier",),
        )
    return Review("registered-as-another", "A patient of this name and birth date is registered under another id.")


def _candidates(patient: Json, found: Found) -> list[Json]:
    alike = [theirs for theirs in found.by_demographics if is_alike(patient, theirs)]
    chosen = found.by_identifier or alike or ([found.recorded] if found.recorded else [])
    return list({str(theirs.get("id")): theirs for theirs in chosen}.values())


def _is_namesake(patient: Json, theirs: Json) -> bool:
    return _first_names(patient) == _first_names(theirs)


def _first_names(patient: Json) -> tuple[str, list[str]]:
    name = demographics.current_name(patient)
    return demographics.folded(name.get("family")), [*map(demographics.folded, name.get("given", ()))][:1]


def _is_somebody_else(ours: Json, theirs: Json) -> bool:
    """Another name and birth date: of a family, too, one may get the number of another."""
    return ours["birthDate"] != theirs.get("birthDate") and not _is_namesake(ours, theirs)


def _version(theirs: Json) -> str | None:
    meta = theirs.get("meta")
    return str(meta["versionId"]) if isinstance(meta, dict) and meta.get("versionId") else None
