"""The Tasks that a registration leaves for people in Medplum.

A failure opens one, a registration completes it, and a patient who needs no registration any more cancels it. A second
kind of Task asks a person to have a registration ended.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from bot_layer.errors import BotError
from bot_layer.fhir import outcomes
from bot_layer.fhir.json import Json
from bot_layer.medplum.client import Medplum

TASK_SYSTEM: Final = "https://medplum.com/integrations/python-bots/registration-task"
ENDING_SYSTEM: Final = "https://medplum.com/integrations/python-bots/end-registration-task"
# The statuses of a Task that somebody still has to look at, whoever has taken it up meanwhile.
_OPEN: Final = "requested,received,accepted,ready,in-progress,on-hold,draft"
_TEXTS: Final = {
    TASK_SYSTEM: ("register-patient", "Register the patient in Health Gorilla"),
    ENDING_SYSTEM: ("end-registration", "Have Health Gorilla end the patient's registration"),
}


@dataclass(frozen=True)
class RegistrationTasks:
    """The Tasks of one Medplum project."""

    server: Medplum
    now: datetime

    def open(self, patient_id: str, error: BotError, system: str = TASK_SYSTEM) -> None:
        """Leave one open Task of a kind for the patient, with the latest reason; the status that it has stays."""
        reason = _reason(error.code, error.message)
        if self._change(patient_id, system, reason):
            return
        code, text = _TEXTS[system]
        task = {
            "resourceType": "Task",
            "identifier": [{"system": system, "value": patient_id}],
            "status": "requested",
            "intent": "order",
            "code": {"coding": [{"system": outcomes.CODE_SYSTEM, "code": code}], "text": text},
            "for": {"reference": f"Patient/{patient_id}"},
            "focus": {"reference": f"Patient/{patient_id}"},
            "authoredOn": self._moment,
            "lastModified": self._moment,
            **reason,
        }
        self.server.create_once(task, f"identifier={system}|{patient_id}&status={_OPEN}")

    def complete(self, patient_ids: Iterable[str]) -> None:
        """Close every open Task of a patient who is registered, and of the Patients merged into this one."""
        for patient_id in patient_ids:
            for system in _TEXTS:
                self._change(patient_id, system, {"status": "completed"})

    def cancel(self, patient_ids: Iterable[str], code: str, text: str) -> None:
        """Close the Tasks of a patient who needs no registration any more."""
        for patient_id in patient_ids:
            self._change(patient_id, TASK_SYSTEM, {"status": "cancelled", **_reason(code, text)})

    def _change(self, patient_id: str, system: str, news: Json) -> bool:
        """Whether the patient has an open Task; one that says the same already is not written."""

        def changed(stored: Json) -> Json:
            return stored if news.items() <= stored.items() else {**stored, **news, "lastModified": self._moment}

        found = self.server.search("Task", [("identifier", f"{system}|{patient_id}"), ("status", _OPEN)])
        for task in found:
            self.server.change(f"Task/{task['id']}", changed)
        return bool(found)

    @property
    def _moment(self) -> str:
        return self.now.isoformat(timespec="seconds")


def _reason(code: str, text: str) -> Json:
    return {"statusReason": {"coding": [{"system": outcomes.CODE_SYSTEM, "code": code}], "text": text}}
