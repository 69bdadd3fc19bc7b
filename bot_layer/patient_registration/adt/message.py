"""An ADT message as what to do with whom: register, merge, inactivate, or nothing that concerns us.

https://www.hl7.eu/HL7v2x/v251/std251/ch03.html and https://build.fhir.org/ig/HL7/v2-to-fhir/ConceptMap-segment-pid-to-patient.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, Literal

from bot_layer.errors import InputError, ReviewNeeded
from bot_layer.fhir import demographics
from bot_layer.fhir.identifiers import kind
from bot_layer.fhir.json import Json
from bot_layer.patient_registration.adt import order as adt_order
from bot_layer.patient_registration.adt import pid
from bot_layer.patient_registration.adt.hl7v2 import Segment, first_segment, parse
from bot_layer.patient_registration.adt.order import Stamp
from bot_layer.patient_registration.rules import registration

REGISTERING: Final = frozenset({"A01", "A04", "A05", "A08", "A28", "A31"})
MERGING: Final = "A40"
INACTIVATING: Final = "A29"
_DECEASED: Final = frozenset({"deceasedBoolean", "deceasedDateTime"})
_SEGMENT_NAME: Final = re.compile(r"[A-Z][A-Z0-9]{2}")
_KEY_TYPES: Final = ("MR", "PI", "PT")
# Numbers of an account or a visit: an authority may count them apart from those of its patients.
_ACCOUNT_TYPES: Final = frozenset({"AN", "ANC", "AND", "ANT", "VN"})

Action = Literal["register", "merge", "inactivate", "ignore"]


@dataclass(frozen=True)
class Header:
    """MSH: what an answer must repeat, and what the message is about."""

    control_id: str = ""
    code: str = ""
    trigger: str = ""
    processing_id: str = ""
    version: str = ""
    character_set: str = ""
    sender: tuple[str, str] = ("", "")
    receiver: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Person:
    """One PID: what it states, what it asks to remove, when that was so, and the identifiers that end (MRG-1)."""

    patient: Json = field(repr=False)
    removed: frozenset[str] = frozenset()
    prior: tuple[Json, ...] = field(default=(), repr=False)
    stamp: Stamp = field(default_factory=Stamp)


@dataclass(frozen=True)
class Adt:
    """The message as a value."""

    header: Header
    action: Action
    persons: tuple[Person, ...] = ()


def header(text: str) -> Header:
    """The header of a message, also of one that can't be read further; InputError where the text has none."""
    return _header(first_segment(text))


def read(
    text: str,
    *,
    authorities: Mapping[str, str] | None = None,
    processing_ids: Sequence[str] = ("P",),
    now: datetime | None = None,
) -> Adt:
    """What the message asks for. ``authorities`` maps assigning authorities (CX.4) to FHIR systems.

    A time that the message states is passed over where it lies ahead of ``now``.
    """
    segments = parse(text)
    head = _header(segments[0])
    action = _action(head, processing_ids)
    if action == "ignore":
        return Adt(head, action)
    if not all(_SEGMENT_NAME.fullmatch(segment.name) for segment in segments):
        raise InputError("A line end within a field cut a segment in two.", code="segment-sequence")
    persons = _persons(segments, authorities or {}, merging=action == "merge")
    if action == "merge" and not all(person.prior for person in persons):
        raise InputError("A merge needs MRG-1 beside each PID.", code="required-field", expression=["MRG-1"])
    stamp = _stamp(segments, now)
    return Adt(head, action, tuple(replace(person, stamp=stamp) for person in persons))


def key(identifiers: Sequence[Json], preferred_system: str | None = None) -> Json:
    """The identifier to look a patient up by: one of the configured system, of type MR, PI or PT, else the first."""
    preferred = [identifier for identifier in identifiers if identifier["system"] == preferred_system]
    return min(preferred or identifiers, key=_rank)


def is_same(one: Json, other: Json) -> bool:
    """Whether two identifiers are one number: an account number is no record number that happens to be equal."""
    kinds = {kind(one), kind(other)}
    is_equal = (one.get("system"), one.get("value")) == (other.get("system"), other.get("value"))
    return is_equal and (len(kinds) == 1 or not kinds & _ACCOUNT_TYPES)


def record_numbers(identifiers: Sequence[Json], preferred_system: str | None = None) -> list[Json]:
    """The identifiers that belong to one patient alone: those of the configured system, and MR, PI and PT."""
    return [each for each in identifiers if each["system"] == preferred_system or pid.type_code(each) in _KEY_TYPES]


def merged(existing: Json, person: Person) -> Json:
    """The stored Patient with what the message states; equal to ``existing`` where it states nothing new.

    A field that the message leaves empty stays as it is; one that it sends as null is removed. A late message changes
    nothing.
    """
    if adt_order.is_late(existing, person.stamp):
        return existing
    stated = _stated(existing, person)
    replaced = person.removed | (_DECEASED if _DECEASED & stated.keys() else frozenset())
    kept = {name: value for name, value in existing.items() if name not in replaced}
    result = {**kept, **{name: value for name, value in stated.items() if name not in ("identifier", "telecom")}}
    identifiers = demographics.entries(existing.get("identifier"))
    added = [entry for entry in stated["identifier"] if not any(is_same(entry, known) for known in identifiers)]
    result = {**result, "identifier": [*identifiers, *added], "telecom": _telecom(existing, person)}
    return adt_order.stamped({name: value for name, value in result.items() if value != []}, person.stamp)


def new_patient(person: Person) -> Json:
    """The Patient to store where none was found."""
    return merged({"resourceType": "Patient", "active": True}, person)


def survivor(patient: Json, prior: str) -> Json:
    """The surviving Patient, linked to the one that it replaces."""
    return _linked(patient, "replaces", prior)


def ended(patient: Json, successor: str) -> Json:
    """The Patient that was merged away: kept, inactive, linked to its one successor."""
    if registration.replaced_by(patient) not in (None, successor):
        raise ReviewNeeded("The Patient that ends was merged into another one before.", code="merged-elsewhere")
    return {**_linked(patient, "replaced-by", successor), "active": False}


def _linked(patient: Json, way: str, reference: str) -> Json:
    link = {"other": {"reference": reference}, "type": way}
    links = demographics.entries(patient.get("link"))
    known = any(entry.get("type") == way and entry.get("other", {}).get("reference") == reference for entry in links)
    return patient if known else {**patient, "link": [*links, link]}


def _rank(identifier: Json) -> int:
    code = pid.type_code(identifier)
    return _KEY_TYPES.index(code) if code in _KEY_TYPES else len(_KEY_TYPES) + (code in _ACCOUNT_TYPES)


def _header(msh: Segment) -> Header:
    return Header(
        control_id=msh.text(10),
        code=msh.text(9),
        trigger=msh.text(9, 2),
        processing_id=msh.text(11),
        version=msh.text(12),
        character_set=msh.text(18),
        sender=(msh.text(3), msh.text(4)),
        receiver=(msh.text(5), msh.text(6)),
    )


def _stamp(segments: Sequence[Segment], now: datetime | None) -> Stamp:
    msh = segments[0]
    sender = "|".join(msh.text(number) or msh.text(number, 2) for number in (3, 4))
    recorded = next((segment.text(2) for segment in segments if segment.name == "EVN"), "")
    return adt_order.stamp(sender, recorded, msh.text(7), now)


def _action(head: Header, processing_ids: Sequence[str]) -> Action:
    if not head.control_id:
        raise InputError("MSH-10 carries no control id.", code="required-field", expression=["MSH-10"])
    if head.code != "ADT":
        raise InputError("Only ADT messages are taken here.", code="unsupported-message", expression=["MSH-9"])
    if head.processing_id not in processing_ids:
        raise InputError("This processing id is not taken here.", code="unsupported-processing", expression=["MSH-11"])
    if head.trigger in REGISTERING:
        return "register"
    if head.trigger == MERGING:
        return "merge"
    return "inactivate" if head.trigger == INACTIVATING else "ignore"


def _persons(segments: Sequence[Segment], authorities: Mapping[str, str], *, merging: bool) -> tuple[Person, ...]:
    persons: list[Person] = []
    for segment in segments:
        if segment.name == "PID":
            persons.append(Person(pid.patient(segment, authorities), pid.removed(segment)))
        elif segment.name == "MRG" and merging and persons:
            prior = tuple(pid.identifiers(segment, 1, authorities))
            persons[-1] = Person(persons[-1].patient, persons[-1].removed, prior)
    if not persons:
        raise InputError("The message has no PID.", code="required-segment", expression=["PID"])
    if len(persons) > 1 and not merging:
        raise InputError("The message is about more than one patient.", code="segment-sequence", expression=["PID"])
    return tuple(persons)


def _stated(existing: Json, person: Person) -> Json:
    """What the message states; that somebody died (PID-30) says nothing new where the day is stored."""
    is_dated = "deceasedDateTime" in existing.keys() - person.removed
    is_said = is_dated and person.patient.get("deceasedBoolean") is True
    return {name: value for name, value in person.patient.items() if not (is_said and name == "deceasedBoolean")}


def _telecom(existing: Json, person: Person) -> list[Json]:
    """The contact points that stay, and those that PID-13 (not for work) and PID-14 (for work) state."""
    stated = person.patient.get("telecom", [])
    old = demographics.entries(existing.get("telecom"))
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
