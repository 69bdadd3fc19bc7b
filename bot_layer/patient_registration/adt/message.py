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
from bot_layer.patient_registration.adt import order, pid
from bot_layer.patient_registration.adt.hl7v2 import MOST_REPETITIONS, Segment, first_segment, parse
from bot_layer.patient_registration.adt.order import Stamp

REGISTERING: Final = frozenset({"A01", "A04", "A05", "A08", "A28", "A31"})
RETURNING: Final = frozenset({"A01", "A04", "A05", "A28"})
"""The events by which a patient comes back whom an A29 has ended; an update (A08, A31) alone does not."""
MERGING: Final = frozenset({"A18", "A30", "A34", "A36", "A39", "A40"})
INACTIVATING: Final = "A29"
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
    msh, head = segments[0], _header(segments[0])
    evn = next((segment for segment in segments if segment.name == "EVN"), None)
    if evn and head.code == "ADT" and not head.trigger:  # versions 2.1 and 2.2 may name the event in EVN-1 alone
        head = replace(head, trigger=evn.text(1).upper())
    action = _action(head, processing_ids)
    if action == "ignore":
        return Adt(head, action)
    if not all(_SEGMENT_NAME.fullmatch(segment.name) for segment in segments):
        raise InputError("A line end within a field splits a segment.", code="segment-sequence")
    persons = _persons(segments, authorities or {}, merging=action == "merge")
    sender = "|".join(msh.text(number) or msh.text(number, 2) for number in (3, 4))
    stamp = order.stamp(sender, evn.text(2) if evn else "", msh.text(7), now)
    is_back = head.trigger in RETURNING
    return Adt(head, action, tuple(replace(person, stamp=stamp, is_back=is_back) for person in persons))


def _header(msh: Segment) -> Header:
    return Header(
        control_id=msh.text(10),
        code=msh.text(9).upper(),
        trigger=msh.text(9, 2).upper(),
        processing_id=msh.text(11),
        version=msh.text(12),
        sender=(msh.text(3), msh.text(4)),
        receiver=(msh.text(5), msh.text(6)),
    )


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
    return "inactivate" if head.trigger == INACTIVATING else "ignore"


def _persons(segments: Sequence[Segment], authorities: Mapping[str, str], *, merging: bool) -> list[Person]:
    starts = [place for place, segment in enumerate(segments) if segment.name == "PID"]
    if not starts:
        raise InputError("The message has no PID.", code="required-segment", expression=["PID"])
    if len(starts) > MOST_REPETITIONS:
        raise InputError(f"The message has more than {MOST_REPETITIONS} PIDs.", code="message-too-large")
    if len(starts) > 1 and not merging:
        raise InputError("The message is about more than one patient.", code="segment-sequence", expression=["PID"])
    ends = [*starts[1:], len(segments)]
    persons = [_person(segments[start:end], authorities) for start, end in zip(starts, ends, strict=True)]
    if merging and not all(person.prior for person in persons):
        raise InputError("A merge needs MRG-1 after each PID.", code="required-field", expression=["MRG-1"])
    if not merging and any(person.prior for person in persons):
        text = "MRG belongs to a merge: send it as A40, or leave it out."
        raise InputError(text, code="segment-sequence", expression=["MRG"])
    return persons


def _person(group: Sequence[Segment], authorities: Mapping[str, str]) -> Person:
    """The person of a PID and of the segments that follow it, up to the next PID."""
    prior: list[Json] = []
    for mrg in (segment for segment in group if segment.name == "MRG"):
        # MRG-4 is the external id of older versions.
        number = next((number for number in (1, 4) if mrg.repetitions(number)), None)
        prior += pid.identifiers(mrg, number, authorities) if number else []
    first = group[0]
    return Person(
        pid.patient(first, authorities), pid.removed(first), tuple(prior), is_protected=pid.is_protected(group)
    )
