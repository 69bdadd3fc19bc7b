"""What an ADT message makes of a stored Patient, and by which numbers it means one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bot_layer.errors import ReviewNeeded
from bot_layer.fhir.identifiers import kind
from bot_layer.fhir.json import Json, objects
from bot_layer.patient_registration.adt import pid
from bot_layer.patient_registration.adt.message import Person
from bot_layer.patient_registration.rules import patient_state

PROTECTED: Final = {
    "system": "http://terminology.hl7.org/CodeSystem/v3-ActCode",
    "code": "NOAUTH",
    "display": "Protection indicator of an ADT message",
}
"""The security label that a Patient carries while PD1-12 or ARV restrict disclosure."""
ENDED: Final = {"url": "https://medplum.com/integrations/python-bots/adt-ended", "valueCode": "A29"}
"""The extension that marks a Patient whom an A29 made inactive, so that the next A28 or A04 brings them back."""
# Elements of which a Patient has one at most: what states one replaces the other.
_CHOICES: Final = (
    frozenset({"deceasedBoolean", "deceasedDateTime"}),
    frozenset({"multipleBirthBoolean", "multipleBirthInteger"}),
)
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
    found = usable(identifiers)
    own = [each for each in found if each["system"] == preferred_system or pid.type_code(each) in _KEY_TYPES]
    return sorted(
        own or found,
        key=lambda each: (
            each["system"] != preferred_system,
            _rank(each),
            each["system"],
            each["value"],
            pid.type_code(each),
        ),
    )


def usable(identifiers: Sequence[Json]) -> list[Json]:
    """The numbers that belong to one patient alone."""
    return [each for each in identifiers if pid.type_code(each) not in _ACCOUNT_TYPES | _SHARED_TYPES]


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
    replaced = person.removed.union(*(choice for choice in _CHOICES if choice & stated.keys()))
    kept = {name: value for name, value in existing.items() if name not in replaced}
    result = {**kept, **{name: value for name, value in stated.items() if name not in ("identifier", "telecom")}}
    identifiers = objects(existing.get("identifier"))
    added = [entry for entry in stated["identifier"] if not any(is_same(entry, known) for known in identifiers)]
    result = {**result, "identifier": [*identifiers, *added], "telecom": _telecom(existing, person)}
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
    if patient_state.replaced_by(patient) not in (None, successor):
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
    marked = any(each == ENDED for each in objects(patient.get("extension")))
    if not marked or not (is_back or patient.get("active") is not False):
        return patient
    others = [each for each in objects(patient.get("extension")) if each != ENDED]
    return {**patient, "active": True, "extension": others}


def _labelled(patient: Json, is_protected: bool | None) -> Json:
    """The Patient with or without the label of the protection indicator; as it is where the message says nothing."""
    meta = patient.get("meta") if isinstance(patient.get("meta"), dict) else {}
    labels = objects((meta or {}).get("security"))
    if is_protected is None or is_protected == (PROTECTED in labels):
        return patient
    others = [label for label in labels if label != PROTECTED]
    return {**patient, "meta": {**(meta or {}), "security": [*others, PROTECTED] if is_protected else others}}


def _linked(patient: Json, way: str, reference: str) -> Json:
    link = {"other": {"reference": reference}, "type": way}
    links = objects(patient.get("link"))
    known = any(entry.get("type") == way and entry.get("other", {}).get("reference") == reference for entry in links)
    return patient if known else {**patient, "link": [*links, link]}


def _rank(identifier: Json) -> int:
    code = pid.type_code(identifier)
    return _KEY_TYPES.index(code) if code in _KEY_TYPES else len(_KEY_TYPES)


def _stated(existing: Json, person: Person) -> Json:
    """What the message states; that somebody died (PID-30) or is a twin (PID-24) says nothing new where the day or the
    order of birth is stored.
    """
    stored = existing.keys() - person.removed
    said = {
        f"{element}Boolean"
        for element, exact in (("deceased", "deceasedDateTime"), ("multipleBirth", "multipleBirthInteger"))
        if exact in stored and person.patient.get(f"{element}Boolean") is True
    }
    return {name: value for name, value in person.patient.items() if name not in said}


def _telecom(existing: Json, person: Person) -> list[Json]:
    """The contact points that stay, and those that PID-13 (not for work) and PID-14 (for work) state."""
    stated = person.patient.get("telecom", [])
    old = objects(existing.get("telecom"))
    home = "telecom-home" in person.removed or any(point.get("use") != "work" for point in stated)
    work = "telecom-work" in person.removed or any(point.get("use") == "work" for point in stated)
    if not home and not work:
        return list(old)
    others = [point for point in old if not _is_reached(point)]
    kept = [point for point in old if _is_reached(point) and not (work if point.get("use") == "work" else home)]
    # The others first: the order is then the same when the message comes again.
    others += [point for point in stated if not _is_reached(point) and point not in others]
    return [*others, *kept, *(point for point in stated if _is_reached(point))]


def _is_reached(point: Json) -> bool:
    return point.get("system") in ("phone", "email")
