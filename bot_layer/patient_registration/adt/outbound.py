"""ADT messages that we write about a patient, for partners that want them.

https://www.hl7.eu/HL7v2x/v251/std251/ch03.html (3.4.2 PID)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from bot_layer.errors import InputError
from bot_layer.fhir.contact_points import contact_points
from bot_layer.fhir.demographics import texts
from bot_layer.fhir.json import Json
from bot_layer.fhir.periods import current
from bot_layer.fhir.social_security import is_ssn
from bot_layer.patient_registration.adt.hl7v2 import escape, render
from bot_layer.patient_registration.adt.pid import type_code

CHARACTER_SET: Final = "UNICODE UTF-8"
VERSION: Final = "2.5.1"
# Each trigger's structure (table 0354), for those that speak of one patient.
STRUCTURES: Final = {
    **dict.fromkeys(("A01", "A04", "A08"), "ADT_A01"),
    **dict.fromkeys(("A05", "A28", "A31"), "ADT_A05"),
    "A29": "ADT_A21",
}
_TYPE_CODES: Final = {
    "official": "L",
    "usual": "D",
    "maiden": "M",
    "nickname": "N",
    "anonymous": "S",
    "temp": "T",
}


@dataclass(frozen=True)
class Envelope:
    """Who sends an outgoing message to whom, when, and under which control id."""

    now: datetime
    control_id: str
    sender: tuple[str, str] = ("", "")
    receiver: tuple[str, str] = ("", "")
    processing_id: str = "P"


def message(patient: Json, event: str, envelope: Envelope, *, authorities: Mapping[str, str] | None = None) -> str:
    """The ADT about a patient; the social security number is never in it."""
    if event not in STRUCTURES:
        raise InputError(f"Choose one of these events: {', '.join(sorted(STRUCTURES))}.", code="unsupported-event")
    evn, pv1 = ["EVN", "" if event == "A29" else event, _moment(envelope.now)], ["PV1", "1", "N"]
    names = {system: name for name, system in (authorities or {}).items()}
    pid_segment = _pid(patient, names, envelope.now)
    return render(msh(envelope, f"ADT^{event}^{STRUCTURES[event]}", VERSION), evn, pid_segment, pv1)


def msh(envelope: Envelope, kind: str, version: str) -> list[str]:
    parties = [escape(part) for part in (*envelope.sender, *envelope.receiver)]
    identity = [escape(envelope.control_id), escape(envelope.processing_id), escape(version)]
    return ["MSH", "^~\\&", *parties, _moment(envelope.now), "", kind, *identity, *[""] * 5, CHARACTER_SET]


def _pid(patient: Json, names: Mapping[str, str], now: datetime) -> list[str]:
    """PID of what is in force, without social security numbers; the legal name is first, a mailing address last."""
    points, identifiers = contact_points(patient.get("telecom"), now), current(patient.get("identifier"), now)
    called = sorted(current(patient.get("name"), now), key=lambda name: name.get("use") != "official")
    addresses = sorted(current(patient.get("address"), now), key=lambda address: address.get("type") == "postal")
    fields = {
        1: "1",
        3: "~".join(_cx(each, names) for each in identifiers if each.get("value") and not is_ssn(each)),
        5: "~".join(map(_xpn, called)),
        7: str(patient.get("birthDate", "")).replace("-", ""),
        8: {"female": "F", "male": "M", "other": "O", "unknown": "U"}.get(patient.get("gender", ""), ""),
        11: "~".join(map(_xad, addresses)),
        13: "~".join(_xtn(point) for point in points if point.get("use") != "work"),
        14: "~".join(_xtn(point) for point in points if point.get("use") == "work"),
        29: str(patient.get("deceasedDateTime", ""))[:10].replace("-", ""),
        30: "Y" if patient.get("deceasedBoolean") is True or patient.get("deceasedDateTime") else "",
    }
    return ["PID", *(fields.get(number, "") for number in range(1, 31))]


def _cx(identifier: Json, names: Mapping[str, str]) -> str:
    system = str(identifier.get("system", ""))
    if system in names:
        authority = escape(names[system])
    elif system.startswith("urn:oid:"):
        authority = f"&{escape(system.removeprefix('urn:oid:'))}&ISO"
    else:
        authority = f"&{escape(system)}&URI" if system else ""
    return f"{escape(identifier['value'])}^^^{authority}^{escape(type_code(identifier))}".rstrip("^")


def _xpn(name: Json) -> str:
    given, suffix = texts(name.get("given")), texts(name.get("suffix"))
    prefix = " ".join(texts(name.get("prefix")))
    kind = _TYPE_CODES.get(name.get("use", ""), "L")
    parts = [name.get("family", ""), "".join(given[:1]), " ".join(given[1:]), " ".join(suffix), prefix, ""]
    return "^".join([*map(escape, parts), kind])


def _xad(address: Json) -> str:
    line = texts(address.get("line"))
    parts = [
        "".join(line[:1]),
        " ".join(line[1:]),
        *(address.get(name, "") for name in ("city", "state", "postalCode", "country")),
    ]
    other = "M" if address.get("type") == "postal" else "H"
    kind = {"work": "B", "temp": "C", "billing": "BI"}.get(address.get("use", ""), other)
    return "^".join([*map(escape, parts), kind])


def _xtn(point: Json) -> str:
    if point["system"] == "email":
        return f"^NET^Internet^{escape(point['value'])}"
    use = "WPN" if point.get("use") == "work" else "PRN"
    return f"{escape(point['value'])}^{use}^{'CP' if point.get('use') == 'mobile' else 'PH'}"


def _moment(now: datetime) -> str:
    return now.strftime("%Y%m%d%H%M%S%z")
