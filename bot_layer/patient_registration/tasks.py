"""The Tasks of registrations in Medplum: opened for a failure, closed by what becomes of the patient."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from bot_layer.errors import BotError
from bot_layer.medplum.client import Medplum
from bot_layer.patient_registration.rules import registration_task as rules
from bot_layer.patient_registration.rules.registration_task import ENDING_SYSTEM, OPEN, TASK_SYSTEM


@dataclass(frozen=True)
class RegistrationTasks:
    """The Tasks of one Medplum project."""

    server: Medplum
    now: datetime

    def open(self, patient_id: str, error: BotError, system: str = TASK_SYSTEM) -> None:
        """Leave one open Task of a kind for the patient, with the latest reason; the status that it has stays."""
        if not self._change(patient_id, system, None, error.code, error.message):
            task = rules.task(patient_id, error, self.now, system)
            self.server.create_once(task, f"identifier={system}|{patient_id}&status={','.join(OPEN)}")

    def complete(self, patient_ids: Iterable[str]) -> None:
        """Close every open Task of a patient who is registered, and of the Patients merged into this one."""
        for patient_id in patient_ids:
            for system in (TASK_SYSTEM, ENDING_SYSTEM):
                self._change(patient_id, system, "completed")

    def cancel(self, patient_ids: Iterable[str], code: str, text: str) -> None:
        """Close the Tasks of a patient who needs no registration any more."""
        for patient_id in patient_ids:
            self._change(patient_id, TASK_SYSTEM, "cancelled", code, text)

    def _change(self, patient_id: str, system: str, status: str | None, code: str = "", text: str = "") -> bool:
        """Whether there was an open Task to change."""
        found = self.server.search("Task", [("identifier", f"{system}|{patient_id}"), ("status", ",".join(OPEN))])
        for task in found:
            self.server.change(
                f"Task/{task['id']}",
                lambda stored: rules.changed(stored, self.now, status or stored["status"], code, text),
            )
        return bool(found)
