"""Whether an ADT message comes late: the stamps of the last ones applied are kept beside the Patient, in a Basic.

They are not kept on the Patient itself, because a message that states nothing new must not make a new version of it.

A stamp is EVN-2, when the event was recorded, and MSH-7, when the message was made; EVN-2 goes first. There is one for
each sender (MSH-3, MSH-4), whose clocks are not compared. https://www.hl7.eu/HL7v2x/v251/std251/ch03.html (3.4.1 EVN)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from bot_layer.fhir.json import Json, objects
from bot_layer.fhir.outcomes import CODE_SYSTEM

URL: Final = "https://medplum.com/integrations/python-bots/adt-stamp"
_STAMP: Final = re.compile(r"(\d{8}|\d{10}|\d{12}|\d{14})(?:(?<=\d{14})(\.\d{1,4}))?([+-]\d{4})?", re.ASCII)
_PRECISIONS: Final = {
    8: ("%Y%m%d", timedelta(days=1)),
    10: ("%Y%m%d%H", timedelta(hours=1)),
    12: ("%Y%m%d%H%M", timedelta(minutes=1)),
    14: ("%Y%m%d%H%M%S", timedelta(seconds=1)),
}
# A stamp without an offset may be half a day ahead of UTC.
_AHEAD: Final = timedelta(days=1)


class Span(NamedTuple):
    """From the first moment of a stamp to where the next one begins; ``is_local`` where it has no offset."""

    start: datetime
    end: datetime
    is_local: bool


@dataclass(frozen=True)
class Stamp:
    """Who sent a message, and when by the sender's clock; "" where the message does not say it."""

    sender: str = ""
    recorded: str = ""
    sent: str = ""


def stamp(sender: str, recorded: str, sent: str, now: datetime | None = None) -> Stamp:
    """The stamp of a message. A time that lies ahead of ``now`` is none: it would make all that follows late."""
    spans = ((text, _span(text)) for text in (recorded, sent))
    return Stamp(
        sender, *(text if span and (now is None or span.start <= now + _AHEAD) else "" for text, span in spans)
    )


def is_late(holder: Json, stamp: Stamp) -> bool:
    """Whether the sender's last applied message is surely newer than one with this stamp.

    ``holder`` is the resource whose extensions are the stamps.
    """
    kept = _kept(holder, stamp.sender)
    for ours, theirs in ((stamp.recorded, kept.recorded), (stamp.sent, kept.sent)):
        one, other = _span(ours), _span(theirs)
        if one is None or other is None or one.is_local != other.is_local:
            continue
        if one.end <= other.start or other.end <= one.start:
            return one.end <= other.start
    return False


def stamped(holder: Json, stamp: Stamp) -> Json:
    """The holder with the stamp in place of the sender's last one; as it is where the message states no time."""
    if not (stamp.recorded or stamp.sent) or stamp == _kept(holder, stamp.sender):
        return holder
    parts = {"sender": stamp.sender, "recorded": stamp.recorded, "sent": stamp.sent}
    mark = {"url": URL, "extension": [{"url": name, "valueString": text} for name, text in parts.items() if text]}
    extensions = objects(holder.get("extension"))
    others = [each for each in extensions if each.get("url") != URL or _read(each).sender != stamp.sender]
    return {**holder, "extension": [*others, mark]}


def new_holder(patient_id: str) -> Json:
    """The Basic that holds the stamps of a Patient."""
    return {
        "resourceType": "Basic",
        "identifier": [{"system": URL, "value": patient_id}],
        "code": {"coding": [{"system": CODE_SYSTEM, "code": "adt-stamps"}]},
        "subject": {"reference": f"Patient/{patient_id}"},
    }


def _kept(holder: Json, sender: str) -> Stamp:
    stamps = (_read(each) for each in objects(holder.get("extension")) if each.get("url") == URL)
    return next((each for each in stamps if each.sender == sender), Stamp())


def _read(extension: Json) -> Stamp:
    parts = {each.get("url"): each.get("valueString") for each in objects(extension.get("extension"))}
    return Stamp(*(str(parts.get(name) or "") for name in ("sender", "recorded", "sent")))


def _span(text: str) -> Span | None:
    """The time that a stamp may mean; None where it is none."""
    match = _STAMP.fullmatch(text)
    if match is None:
        return None
    digits, fraction, offset = match.groups()
    layout, unit = _PRECISIONS[len(digits)]
    try:
        start = datetime.strptime(digits + (offset or "+0000"), f"{layout}%z")
        if fraction:
            start, unit = start + timedelta(seconds=float(fraction)), timedelta(microseconds=1)
        return Span(start, start + unit, is_local=offset is None)
    except (ValueError, OverflowError):
        return None
