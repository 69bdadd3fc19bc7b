"""The acknowledgement of a message: whether it was accepted, and what the sender can do where it was not.

AR: the message can never be taken as it is. AE: it was not carried out, because something in it must be corrected, a
person must look, or a service is busy; ERR says which. AA: done, or not for registration.
https://www.hl7.eu/HL7v2x/v251/std251/ch02.html (2.13 acknowledgements, 2.15.5 ERR)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from bot_layer.errors import BotError, InputError
from bot_layer.patient_registration.adt.hl7v2 import escape, render
from bot_layer.patient_registration.adt.message import Header
from bot_layer.patient_registration.adt.outbound import VERSION, Envelope, msh
from bot_layer.patient_registration.rules.registration_answer import NOT_FOR_THE_INDEX

_UNUSABLE: Final = frozenset(
    {"not-hl7", "unsupported-message", "unsupported-event", "unsupported-processing", "message-too-large"}
)
# HL7 table 0357, for the codes that reading a message and registering a patient can end with.
_ERROR_CODES: Final = {
    "segment-sequence": ("100", "Segment sequence error"),
    "required-segment": ("100", "Segment sequence error"),
    "required-field": ("101", "Required field missing"),
    "missing-demographics": ("101", "Required field missing"),
    "data-type": ("102", "Data type error"),
    "escape-sequence": ("102", "Data type error"),
    "character-set": ("102", "Data type error"),
    "table-value": ("103", "Table value not found"),
    "unsupported-message": ("200", "Unsupported message type"),
    "unsupported-event": ("201", "Unsupported event code"),
    "unsupported-processing": ("202", "Unsupported processing id"),
    "unknown-authority": ("204", "Unknown key identifier"),
    "unknown-patient": ("204", "Unknown key identifier"),
    "no-record-number": ("204", "Unknown key identifier"),
    "patient-merged": ("204", "Unknown key identifier"),
    "contradictory-demographics": ("205", "Duplicate key identifier"),
    "several-patients": ("205", "Duplicate key identifier"),
    "number-of-another": ("205", "Duplicate key identifier"),
    "old-identifier": ("205", "Duplicate key identifier"),
}
_ACCEPTED: Final = ("0", "Message accepted")
_OTHER_ERROR: Final = ("207", "Application internal error")
# Where a FHIR element came from, so that the sender finds the field.
_FIELDS: Final = {
    **dict.fromkeys(("Patient.name.family", "Patient.name.given"), "PID-5"),
    "Patient.birthDate": "PID-7",
    "Patient.gender": "PID-8",
    **{f"Patient.address.{part}": "PID-11" for part in ("line", "city", "state", "postalCode")},
    "Patient.identifier": "PID-3",
    "Patient.meta.security": "PD1-12",
}


@dataclass(frozen=True)
class Problem:
    """One ERR segment: our machine-readable code, a sentence without personal data, and the fields it is about."""

    code: str
    text: str
    expression: tuple[str, ...] = ()
    severity: Literal["E", "W", "I"] = "E"


NOT_FOR_US: Final = Problem(
    "unsupported-event", "This event does not concern registration; nothing was done.", ("MSH-9",), "I"
)
UNKNOWN_PRIOR: Final = Problem(
    "unknown-prior", "Medplum has no Patient with a number that the message ends.", ("MRG-1",), "I"
)
LATE: Final = Problem("late-message", "A newer message was applied before; its values stay.", ("EVN-2",), "I")


def ack(header: Header, code: Literal["AA", "AE", "AR"], now: datetime, problems: Sequence[Problem] = ()) -> str:
    """The answer to a message: accepted, accepted with errors, or refused, under the message's own control id."""
    head = msh(
        Envelope(now, header.control_id or "0", header.receiver, header.sender, header.processing_id or "P"),
        f"ACK^{escape(header.trigger)}^ACK" if header.trigger else "ACK",
        header.version or VERSION,
    )
    return render(head, ["MSA", code, escape(header.control_id)], *(_err(problem) for problem in problems))


def code_of(error: BotError) -> Literal["AA", "AE", "AR"]:
    """How a message ended: AR where it can never be taken, AE where it failed, AA where the patient is not for us."""
    if error.code in _UNUSABLE:
        return "AR"
    return "AA" if error.code in NOT_FOR_THE_INDEX else "AE"


def problem_of(error: BotError) -> Problem:
    """An error as a segment of an acknowledgement; what is no failure is a warning."""
    severity: Literal["E", "W"] = "W" if error.code in NOT_FOR_THE_INDEX else "E"
    return Problem(error.code, error.message, error.expression if isinstance(error, InputError) else (), severity)


def _err(problem: Problem) -> list[str]:
    fields = dict.fromkeys(_FIELDS.get(expression, expression) for expression in problem.expression)
    where = "~".join(name.replace("-", "^1^") if "-" in name else name for name in fields)
    code, meaning = _ERROR_CODES.get(problem.code, _OTHER_ERROR if problem.severity == "E" else _ACCEPTED)
    return [
        "ERR",
        "",
        where,
        f"{code}^{meaning}^HL70357",
        problem.severity,
        escape(problem.code),
        "",
        "",
        escape(problem.text),
    ]
