"""What the reported cases share: ADT messages in a short form, and a list of faults that is raised at the end."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from typing import Any

from bot_layer.fhir.json import Json
from bots.register_patient import handler
from tests.bots.patient_world import MRN, Clinic, clinic

AUTHORITIES = json.dumps({"CLINIC": MRN, "EMPI": "https://empi.example/id", "ACCT": "https://clinic.example/acct"})
_HEADER = "MSH|^~\\&|PMS|CLINIC|MEDPLUM|HUB|{at}||ADT^{event}|C1|P|2.5.1"


class Checks:
    """The checks of one case: all are run before the first failure is raised."""

    def __init__(self) -> None:
        self._failed: list[str] = []

    def __call__(self, what: str, good: bool, came: object = "") -> None:
        """Note one check."""
        if not good:
            self._failed.append(f"{what} | got: {came}")

    def done(self) -> None:
        """Raise what failed."""
        assert not self._failed, self._failed


def adt(event: str, *segments: str, at: str = "20260101120000", header: str = _HEADER, evn: str | None = None) -> str:
    """An ADT message of these segments; `header` and `evn` replace the first two."""
    first = header.format(at=at, event=event, cid="C1")
    return "\r".join([first, evn if evn is not None else f"EVN||{at}", *segments]) + "\r"


def pid(  # noqa: PLR0917 - the order of the segment's fields
    ids: str,
    name: str,
    born: str,
    sex: str,
    address: str = "12 Pine Road^^Ely^NV^89301^^H",
    home: str = "",
    work: str = "",
) -> str:
    """A PID segment."""
    return f"PID|1||{ids}||{name}||{born}|{sex}|||{address}||{home}|{work}"


def world(**settings: Any) -> AbstractContextManager[Clinic]:
    """A clinic whose sender's assigning authorities are configured."""
    return clinic(ADT_ASSIGNING_AUTHORITIES=AUTHORITIES, ADT_PATIENT_SYSTEM=MRN, **settings)


def send(w: Clinic, message: str) -> tuple[str, str]:
    """(MSA-1, the acknowledgment's MSA and ERR segments on one line)."""
    answer: Any = handler(w.message(message))
    lines = str(answer).replace("\r", "\n").split("\n")
    code = next((line.split("|")[1] for line in lines if line.startswith("MSA")), "?")
    return code, " // ".join(line for line in lines if line[:3] in ("MSA", "ERR"))


def patients(w: Clinic) -> list[Json]:
    """Every Patient of Medplum."""
    return list(w.server.search("Patient", [("_count", "100"), ("_sort", "_id")]))


def by_number(w: Clinic, number: str, system: str = MRN) -> list[Json]:
    """The Patients who carry this record number."""
    return [
        patient
        for patient in patients(w)
        if any(i.get("system") == system and i.get("value") == number for i in patient.get("identifier", []))
    ]


def family(patient: Json) -> Any:
    """The family name of the first name."""
    return patient["name"][0].get("family")


def tasks(w: Clinic) -> list[tuple[Any, Any]]:
    """(status, reason) of every Task."""
    return [(t["status"], t["statusReason"]["coding"][0]["code"]) for t in w.server.search("Task", [("_count", "50")])]
