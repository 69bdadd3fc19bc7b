"""A patient in Medplum and in Health Gorilla's index as values: compared, and updated without losing their data.

The index knows the patient by one identifier of type PT, under which federated queries ask for it. Medplum's Patient
keeps Health Gorilla's id as a further identifier. https://terminology.hl7.org/CodeSystem-v2-0203.html
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from bot_layer.fhir import security_labels
from bot_layer.fhir.contact_points import keys_of
from bot_layer.fhir.demographics import Demographics, words
from bot_layer.fhir.identifiers import HEALTH_GORILLA_SYSTEM, V2_0203, V2_0203_SYSTEMS
from bot_layer.fhir.json import Json, as_object, codings, objects, text
from bot_layer.fhir.periods import in_force
from bot_layer.fhir.social_security import is_ssn

_GENDERS: Final = frozenset({"male", "female"})
_OTHER_GENDERS: Final = frozenset({"other", "unknown"})
_IDENTIFIER_USES: Final = {"official": 0, "usual": 1}
_MOST_EXTERNAL_IDS: Final = 10
_PT_LABEL: Final = "Patient external identifier"


@dataclass(frozen=True)
class Policy:
    """The clinic's choices. ``identifier_system`` None: the PT identifier's value is the Medplum Patient's id."""

    patient_system: str
    identifier_system: str | None = None
    other_genders: bool = False
    test_patients: bool = False
    deceased: bool = False


@dataclass(frozen=True)
class ClinicPatient:
    """A Patient of Medplum, as registration sees it.

    ``external_ids`` are the ids by which federated queries may ask for the patient: Medplum's own, or those in force of
    the configured system. A new registration is made under the first one; the order does not depend on that of the
    identifiers, and a social security number is never among them. ``former_ids`` are numbers of that system, and
    ``ended_ids`` Health Gorilla ids, that are not in force any more.
    """

    id: str
    demographics: Demographics
    external_ids: tuple[str, ...] = field(repr=False)
    former_ids: tuple[str, ...] = field(repr=False)
    health_gorilla_ids: tuple[str, ...] = field(repr=False)
    ended_ids: tuple[str, ...] = field(repr=False)
    is_active: bool = True
    is_merged: bool = False
    is_test: bool = False
    is_deceased: bool = False

    @classmethod
    def read(cls, patient: Json, policy: Policy, now: datetime) -> ClinicPatient:
        """The Patient as a value, at the time ``now``."""
        system, own_id = policy.identifier_system, words(patient.get("id"))
        return cls(
            id=own_id,
            demographics=Demographics.read(patient, now),
            external_ids=numbers(patient, system, now) if system else tuple(filter(None, [own_id])),
            former_ids=numbers(patient, system, now, are_in_force=False) if system else (),
            health_gorilla_ids=numbers(patient, HEALTH_GORILLA_SYSTEM, now),
            ended_ids=numbers(patient, HEALTH_GORILLA_SYSTEM, now, are_in_force=False),
            is_active=patient.get("active") is not False,
            is_merged=replaced_by(patient) is not None,
            is_test=_is_test(patient),
            is_deceased=patient.get("deceasedBoolean") is True or bool(patient.get("deceasedDateTime")),
        )

    def missing(self, policy: Policy) -> tuple[str, ...]:
        """Every required element that is absent or unusable, as FHIRPath."""
        name = self.demographics.name
        absent = {
            "Patient.name.family": not name.get("family"),
            "Patient.name.given": not name.get("given"),
            "Patient.birthDate": not self.demographics.full_birth_date,
            "Patient.gender": self.demographics.gender
            not in (_GENDERS | _OTHER_GENDERS if policy.other_genders else _GENDERS),
            **{f"Patient.address.{part}": True for part in self.demographics.missing_address_parts},
            "Patient.identifier" if policy.identifier_system else "Patient.id": not self.external_ids,
        }
        return tuple(expression for expression, is_absent in absent.items() if is_absent)

    def body(self, policy: Policy, external_id: str) -> Json:
        """The Patient as Health Gorilla takes it: only what it asks for, nothing invented, no part without a value."""
        built: Json = {
            "resourceType": "Patient",
            "identifier": [
                {
                    "type": {"coding": [{"system": V2_0203, "code": "PT", "display": _PT_LABEL}], "text": _PT_LABEL},
                    "system": policy.patient_system,
                    "value": external_id,
                }
            ],
            "name": [{"use": "usual", **self.demographics.name}],
            "gender": self.demographics.gender,
            "birthDate": self.demographics.full_birth_date,
            "address": [self.demographics.address],
        }
        return {**built, "telecom": list(self.demographics.points)} if self.demographics.points else built


@dataclass(frozen=True)
class Registration:
    """A patient in the index. ``pts`` are system and value of the identifiers by which queries may ask for it."""

    id: str
    resource: Json = field(repr=False)
    demographics: Demographics
    is_active: bool = True
    numbers: frozenset[tuple[str, str]] = field(default=frozenset(), repr=False)
    pts: frozenset[tuple[str, str]] = field(default=frozenset(), repr=False)

    @classmethod
    def read(cls, resource: Json, policy: Policy, now: datetime) -> Registration:
        """Health Gorilla's Patient as a value, at the time ``now``."""
        identifiers = objects(resource.get("identifier"))
        return cls(
            id=str(resource.get("id")),
            resource=resource,
            demographics=Demographics.read(resource, now),
            is_active=resource.get("active") is not False,
            numbers=frozenset(map(_number, identifiers)),
            pts=frozenset(_number(each) for each in identifiers if _is_pt(each, policy.patient_system)),
        )

    def differs_from(self, ours: ClinicPatient, pt: tuple[str, str]) -> tuple[str, ...]:
        """The elements in which the registered patient differs from what would be sent now."""
        theirs, mine = self.demographics, ours.demographics
        unequal = {
            "identifier": pt not in self.numbers or self.pts - {pt},
            "name": mine.folded_name != theirs.folded_name,
            "birthDate": mine.full_birth_date != theirs.birth_date,
            "gender": mine.gender != theirs.gender,
            "address": mine.folded_address != theirs.folded_address,
            "telecom": mine.reached_by != keys_of(theirs.points),
            "active": not self.is_active,
        }
        return tuple(element for element, differs in unequal.items() if differs)

    def merged_with(self, body: Json) -> Json:
        """The resource to put: theirs with our demographics, their own identifiers kept, the PT identifier ours."""
        kept = {name: value for name, value in self.resource.items() if name not in {"text", "telecom"}}
        pt = _number(body["identifier"][0])
        stale = self.pts - {pt}
        others = [each for each in objects(self.resource.get("identifier")) if _number(each) not in stale]
        added = [] if pt in self.numbers else body["identifier"]
        active = {} if self.is_active else {"active": True}
        return {**kept, **body, "identifier": [*others, *added], **active}

    def ended(self) -> Json:
        """The resource to put where the registration ends: inactive is as far as Health Gorilla allows."""
        return {**{name: value for name, value in self.resource.items() if name != "text"}, "active": False}


def replaced_by(patient: Json) -> str | None:
    """The reference of the Patient that this one was merged into, or None."""
    links = (link for link in objects(patient.get("link")) if link.get("type") == "replaced-by")
    found = (as_object(link.get("other")).get("reference") for link in links)
    return next((str(reference) for reference in found if reference), None)


def numbers(patient: Json, system: str, now: datetime, *, are_in_force: bool = True) -> tuple[str, ...]:
    """The different identifiers of a system, in force or not; the official one first, else in alphabetical order.

    A number that occurs twice is in force if one of the two is.
    """
    own = [each for each in objects(patient.get("identifier")) if each.get("system") == system and not is_ssn(each)]
    current: dict[str, object] = {
        words(each.get("value")): each.get("use") for each in reversed(own) if in_force(each, now)
    }
    found = current if are_in_force else {words(each.get("value")) for each in own} - current.keys()
    ranked = sorted(filter(None, found), key=lambda value: (_IDENTIFIER_USES.get(str(current.get(value)), 2), value))
    return tuple(ranked[:_MOST_EXTERNAL_IDS])


def with_health_gorilla_id(patient: Json, identifier: str | None, now: datetime) -> Json:
    """Medplum's Patient with this Health Gorilla id as its only one in force, or with none; itself if so already."""
    if numbers(patient, HEALTH_GORILLA_SYSTEM, now) == ((identifier,) if identifier else ()):
        return patient
    new = (HEALTH_GORILLA_SYSTEM, identifier)
    others = [each for each in objects(patient.get("identifier")) if _number(each) != new]
    kept = [{**each, "use": "old"} if each.get("system") == HEALTH_GORILLA_SYSTEM else each for each in others]
    added = [{"system": HEALTH_GORILLA_SYSTEM, "value": identifier}] if identifier else []
    return {**patient, "identifier": [*kept, *added]}


def shown(body: Json) -> Json:
    """A payload as a preview shows it: without social security numbers, which Health Gorilla's record may hold."""
    return {**body, "identifier": [each for each in objects(body.get("identifier")) if not is_ssn(each)]}


def _is_test(patient: Json) -> bool:
    """Whether the Patient is marked as test data: HTEST as a tag or as a security label."""
    meta = as_object(patient.get("meta"))
    marks = [*objects(meta.get("tag")), *objects(meta.get("security"))]
    return any((mark.get("system"), mark.get("code")) == security_labels.TEST_DATA for mark in marks)


def _number(identifier: Json) -> tuple[str, str]:
    return text(identifier.get("system")), text(identifier.get("value"))


def _is_pt(identifier: Json, system: str) -> bool:
    types = ((each.get("code"), text(each.get("system"))) for each in codings(identifier.get("type")))
    typed = any(code == "PT" and system in V2_0203_SYSTEMS for code, system in types)
    return typed or identifier.get("system") == system
