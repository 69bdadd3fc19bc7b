"""What an ADT message makes of a stored Patient, and by which numbers it means one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bot_layer.errors import ReviewNeeded
from bot_layer.fhir.identifiers import kind
from bot_layer.fhir.json import Json, as_object, objects
from bot_layer.patient_registration.adt.message import Person
from bot_layer.patient_registration.adt.pid import type_code
from bot_layer.patient_registration.rules.index_patient import replaced_by

PROTECTED: Final = {
    "system": "http://terminology.hl7.org/CodeSystem/v3-ActCode",
    "code": "NOAUTH",
    "display": "Protection indicator of an ADT message",
}
"""The security label that a Patient carries while PD1-12 or ARV restrict disclosure."""
ENDED: Final = {"url": "https://medplum.com/integrations/python-bots/adt-ended", "valueCode": "A29"}
"""The extension that marks a Patient whom an A29 made inactive, so that the next A28 or A04 brings them back."""
# Elements of which a Patient has one at most, the exact one first: what states one replaces the other.
_CHOICES: Final = (("deceasedDateTime", "deceasedBoolean"), ("multipleBirthInteger", "multipleBirthBoolean"))
_KEY_TYPES: Final = ("MR", "PI", "PT", "PE")
# Numbers of an account, a visit or an order: an authority may count them apart from those of its patients.
_ACCOUNT_TYPES: Final = frozenset({"AN", "ANC", "AND", "ANT", "VN", "ACSN", "LACSN", "BA"})
# Numbers that a family, a household or an employer's people share.
_SHARED_TYPES: Final = frozenset({"MB", "SN", "GI", "GN", "MI", "WC", "WCN"})


def identifying(identifiers: Sequence[Json], preferred_system: str | None = None) -> list[Json]:
    """The numbers by which a message means a patient, the best first, whatever their order in the message.

    Those of the configured system and of type MR, PI, PT or PE; without any of these all others, except numbers of
    accounts and visits, and numbers that several people share.
    """

    def rank(number: Json) -> tuple[bool, int, str, str, str]:
        code = type_code(number)
        place = _KEY_TYPES.index(code) if code in _KEY_TYPES else len(_KEY_TYPES)
        return number["system"] != preferred_system, place, number["system"], number["value"], code

    found = usable(identifiers)
    own = [each for each in found if each["system"] == preferred_system or type_code(each) in _KEY_TYPES]
    return sorted(own or found, key=rank)


def usable(identifiers: Sequence[Json]) -> list[Json]:
    """The numbers that belong to one patient alone."""
    return [each for each in identifiers if type_code(each) not in _ACCOUNT_TYPES | _SHARED_TYPES]


def is_same(one: Json, other: Json) -> bool:
    """Whether two identifiers are one number: an account number is no record number that happens to be equal."""
    kinds = {kind(one), kind(other)}
    is_equal = (one.get("system"), one.get("value")) == (other.get("system"), other.get("value"))
    return is_equal and (len(kinds) == 1 or not kinds & _ACCOUNT_TYPES)


def carries(patient: Json, number: Json) -> bool:
    """Whether the number is among the patient's identifiers, whatever a search answered."""
    return any(is_same(entry, number) for entry in objects(patient.get("identifier")))


def carried_before(patient: Json, number: Json) -> bool:
    """Whether the number is the patient's only as one of use ``old``: one that was given in error."""
    own = [entry for entry in objects(patient.get("identifier")) if is_same(entry, number)]
    return bool(own) and all(entry.get("use") == "old" for entry in own)


def merged(existing: Json, person: Person) -> Json:
    """The stored Patient with what the message states; equal to ``existing`` where it states nothing new.

    A field that the message leaves empty stays as it is; one that it sends as null is removed.
    """
    stated = _stated(existing, person)
    replaced = person.removed.union(*(choice for choice in _CHOICES if {*choice} & stated.keys()))
    identifiers = objects(existing.get("identifier"))
    added = [entry for entry in stated["identifier"] if not any(is_same(entry, known) for known in identifiers)]
    result = {
        **{name: value for name, value in existing.items() if name not in replaced},
        **stated,
        "identifier": [*identifiers, *added],
        "telecom": _telecom(existing, person),
    }
    result = _returned(_labelled(result, person.is_protected), is_back=person.is_back)
    return {name: value for name, value in result.items() if value != []}


def new_patient(person: Person) -> Json:
    """The Patient to store where none was found."""
    return merged({"resourceType": "Patient", "active": True}, person)


def survivor(patient: Json, prior: str) -> Json:
    """The surviving Patient, linked to the one that it replaces."""
    return _linked(patient, "replaces", prior)


def ended(patient: Json, successor: str) -> Json:
    """The Patient that was merged away: kept, inactive, linked to its one successor."""
    if replaced_by(patient) not in (None, successor):
        raise ReviewNeeded("The Patient to merge was already merged into another one.", code="merged-elsewhere")
    return {**_linked(patient, "replaced-by", successor), "active": False}


def inactivated(patient: Json) -> Json:
    """The Patient after an A29: kept and inactive. One who is inactive already is left alone."""
    if patient.get("active") is False:
        return patient
    others = [each for each in objects(patient.get("extension")) if each.get("url") != ENDED["url"]]
    return {**patient, "active": False, "extension": [*others, ENDED]}


def _returned(patient: Json, *, is_back: bool) -> Json:
    """The Patient active again where an A29 had ended the record and this event brings the patient back."""
    extensions = objects(patient.get("extension"))
    if ENDED not in extensions or not (is_back or patient.get("active") is not False):
        return patient
    return {**patient, "active": True, "extension": [each for each in extensions if each != ENDED]}


def _labelled(patient: Json, is_protected: bool | None) -> Json:
    """The Patient with or without the label of the protection indicator; as it is where the message says nothing."""
    meta = as_object(patient.get("meta"))
    labels = objects(meta.get("security"))
    if is_protected is None or is_protected == (PROTECTED in labels):
        return patient
    others = [label for label in labels if label != PROTECTED]
    return {**patient, "meta": {**meta, "security": [*others, PROTECTED] if is_protected else others}}


def _linked(patient: Json, way: str, reference: str) -> Json:
    links = objects(patient.get("link"))
    if any(each.get("type") == way and each.get("other", {}).get("reference") == reference for each in links):
        return patient
    return {**patient, "link": [*links, {"other": {"reference": reference}, "type": way}]}


def _stated(existing: Json, person: Person) -> Json:
    """What the message states; that somebody died (PID-30) or is a twin (PID-24) says nothing new where the day or the
    order of birth is stored.
    """
    stored = existing.keys() - person.removed
    known = {plain for exact, plain in _CHOICES if exact in stored and person.patient.get(plain) is True}
    return {name: value for name, value in person.patient.items() if name not in known}


def _telecom(existing: Json, person: Person) -> list[Json]:
    """The contact points that stay, and those that PID-13 (not for work) and PID-14 (for work) state."""
    stated, old = person.patient.get("telecom", []), objects(existing.get("telecom"))
    # Whether each of the two fields, for work or not, says anything.
    says = {
        is_work: f"telecom-{'work' if is_work else 'home'}" in person.removed or is_work in map(_is_work, stated)
        for is_work in (False, True)
    }
    if not any(says.values()):
        return old
    others = [point for point in old if not _is_reached(point)]
    kept = [point for point in old if _is_reached(point) and not says[_is_work(point)]]
    # The others first: the order is then the same when the message comes again.
    others += [point for point in stated if not _is_reached(point) and point not in others]
    return [*others, *kept, *(point for point in stated if _is_reached(point))]


def _is_work(point: Json) -> bool:
    return point.get("use") == "work"


def _is_reached(point: Json) -> bool:
    return point.get("system") in ("phone", "email")
