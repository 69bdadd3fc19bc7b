"""An ADT message as what to do with whom: register, merge, inactivate, or nothing that concerns registration.

https://www.hl7.eu/HL7v2x/v251/std251/ch03.html (events and structures)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, Literal

from bot_layer.errors import InputError
from bot_layer.fhir.json import Json
from bot_layer.patient_registration.adt import order as adt_order
from bot_layer.patient_registration.adt import pid
from bot_layer.patient_registration.adt.hl7v2 import MOST_REPETITIONS, Segment, first_segment, parse
from bot_layer.patient_registration.adt.order import Stamp

REGISTERING: Final = frozenset({"A01", "A04", "A05", "A08", "A28", "A31"})
RETURNING: Final = frozenset({"A01", "A04", "A05", "A28"})
"""The events by which a patient comes back whom an A29 has ended; an update (A08, A31) alone does not."""
MERGING: Final = frozenset({"A18", "A30", "A34", "A36", "A39", "A40"})
INACTIVATING: Final = frozenset({"A29"})
OLDER_MERGES: Final = MERGING - {"A39", "A40"}
"""Merges that name one record each. If nobody here has it, a wrong number is as likely as a record never sent."""
# Events that change whose a number is, in ways that are not carried out here: link and unlink, move, change.
REFUSED: Final = frozenset({"A24", "A37", "A43", "A46", "A47", "A48"})
_EVENT: Final = re.compile(r"A[0-6]\d", re.ASCII)
_SEGMENT_NAME: Final = re.compile(r"[A-Z][A-Z0-9]{2}")

Action = Literal["register", "merge", "inactivate", "ignore"]


@dataclass(frozen=True)
class Header:
    """MSH: what an answer must repeat, and what the message is about. ``trigger`` is the event, such as A04."""

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
    """One PID: what it states, what it asks to remove, when that was so, and the numbers of records that end (MRG).

    ``is_protected`` is what PD1-12 or ARV say about disclosure, None where they say nothing. ``is_back`` is True for an
    event by which a patient comes back.
    """

    patient: Json = field(repr=False)
    removed: frozenset[str] = frozenset()
    prior: tuple[Json, ...] = field(default=(), repr=False)
    stamp: Stamp = field(default_factory=Stamp)
    is_protected: bool | None = None
    is_back: bool = False


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

    A time that the message states is ignored where it lies ahead of ``now``.
    """
    segments = parse(text)
    head = _with_event(_header(segments[0]), segments)
    action = _action(head, processing_ids)
    if action == "ignore":
        return Adt(head, action)
    if not all(_SEGMENT_NAME.fullmatch(segment.name) for segment in segments):
        raise InputError("A line end within a field splits a segment.", code="segment-sequence")
    persons = _persons(segments, authorities or {}, merging=action == "merge")
    stamp = _stamp(segments, now)
    is_back = head.trigger in RETURNING
    return Adt(head, action, tuple(replace(person, stamp=stamp, is_back=is_back) for person in persons))


def _header(msh: Segment) -> Header:
    return Header(
        control_id=msh.text(10),
        code=msh.text(9).upper(),
        trigger=msh.text(9, 2).upper(),
        processing_id=msh.text(11),
        version=msh.text(12),
        character_set=msh.text(18),
        sender=(msh.text(3), msh.text(4)),
        receiver=(msh.text(5), msh.text(6)),
    )


def _with_event(head: Header, segments: Sequence[Segment]) -> Header:
    """Versions 2.1 and 2.2 may name the event in EVN-1 alone."""
    recorded = next((segment.text(1) for segment in segments if segment.name == "EVN"), "")
    return head if head.trigger or head.code != "ADT" else replace(head, trigger=recorded.upper())


def _stamp(segments: Sequence[Segment], now: datetime | None) -> Stamp:
    msh = segments[0]
    sender = "|".join(msh.text(number) or msh.text(number, 2) for number in (3, 4))
    recorded = next((segment.text(2) for segment in segments if segment.name == "EVN"), "")
    return adt_order.stamp(sender, recorded, msh.text(7), now)


def _action(head: Header, processing_ids: Sequence[str]) -> Action:
    if not head.control_id:
        raise InputError("MSH-10 has no control id.", code="required-field", expression=["MSH-10"])
    if head.code != "ADT":
        raise InputError("Only ADT messages are accepted.", code="unsupported-message", expression=["MSH-9"])
    if head.processing_id not in processing_ids:
        raise InputError("This processing id is not accepted.", code="unsupported-processing", expression=["MSH-11"])
    if head.trigger in REFUSED or not _EVENT.fullmatch(head.trigger):
        raise InputError(
            "This event is not carried out: a person must make the change to the patient's numbers."
            if head.trigger in REFUSED
            else "Neither MSH-9 nor EVN-1 names an ADT event.",
            code="unsupported-event",
            expression=["MSH-9"],
        )
    if head.trigger in REGISTERING:
        return "register"
    if head.trigger in MERGING:
        return "merge"
    return "inactivate" if head.trigger in INACTIVATING else "ignore"


def _persons(segments: Sequence[Segment], authorities: Mapping[str, str], *, merging: bool) -> tuple[Person, ...]:
    groups = _groups(segments)
    if not groups:
        raise InputError("The message has no PID.", code="required-segment", expression=["PID"])
    if len(groups) > MOST_REPETITIONS:
        raise InputError(f"The message has more than {MOST_REPETITIONS} PIDs.", code="message-too-large")
    if len(groups) > 1 and not merging:
        raise InputError("The message is about more than one patient.", code="segment-sequence", expression=["PID"])
    persons = tuple(_person(group, authorities) for group in groups)
    if merging and not all(person.prior for person in persons):
        raise InputError("A merge needs MRG-1 after each PID.", code="required-field", expression=["MRG-1"])
    if not merging and any(person.prior for person in persons):
        raise InputError(
            "MRG belongs to a merge: send it as A40, or leave it out.", code="segment-sequence", expression=["MRG"]
        )
    return persons


def _groups(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Each PID with the segments that follow it, up to the next PID."""
    groups: list[list[Segment]] = []
    for segment in segments:
        if segment.name == "PID":
            groups.append([segment])
        elif groups:
            groups[-1].append(segment)
    return groups


def _person(group: Sequence[Segment], authorities: Mapping[str, str]) -> Person:
    first = group[0]
    prior = [number for segment in group if segment.name == "MRG" for number in _prior(segment, authorities)]
    return Person(
        pid.patient(first, authorities),
        pid.removed(first),
        tuple(prior),
        is_protected=pid.is_protected(group),
    )


def _prior(segment: Segment, authorities: Mapping[str, str]) -> list[Json]:
    """The numbers that end: MRG-1, or MRG-4 (the external id of older versions) where MRG-1 is empty."""
    for number in (1, 4):
        if segment.repetitions(number):
            return pid.identifiers(segment, number, authorities)
    return []
