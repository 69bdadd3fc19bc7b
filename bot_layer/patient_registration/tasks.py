"""The Tasks of registrations in Medplum: opened for a failure, closed by what becomes of the patient."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from bot_layer.errors import BotError
from bot_layer.fhir.json import Json
from bot_layer.medplum.client import Medplum
from bot_layer.patient_registration.rules import registration_task as rules
from bot_layer.patient_registration.rules.registration_task import ENDING_SYSTEM, OPEN, TASK_SYSTEM


@dataclass(frozen=True)
class RegistrationTasks:
    """The Tasks of one Medplum project."""

    server: Medplum
    now: datetime

    def fail(self, patient_id: str, error: BotError) -> None:
        """Leave one open Task for the patient, with the latest reason."""
        self._open(patient_id, error, TASK_SYSTEM)

    def ask_to_end(self, patient_id: str, error: BotError) -> None:
        """Ask a person to have the patient's registration ended."""
        self._open(patient_id, error, ENDING_SYSTEM)

    def complete(self, patient_ids: Iterable[str]) -> None:
        """Close every open Task of a patient who is registered, and of the Patients merged into this one."""
        for patient_id in patient_ids:
            for system in (TASK_SYSTEM, ENDING_SYSTEM):
                self._change(patient_id, system, lambda stored: rules.completed(stored, self.now))

    def cancel(self, patient_ids: Iterable[str], code: str, text: str) -> None:
        """Close the Tasks of a patient who needs no registration any more."""
        for patient_id in patient_ids:
            self._change(patient_id, TASK_SYSTEM, lambda stored: rules.cancelled(stored, code, text, self.now))

    def _open(self, patient_id: str, error: BotError, system: str) -> None:
        if not self._change(patient_id, system, lambda stored: rules.renewed(stored, error, self.now)):
            task = rules.task(patient_id, error, self.now, system)
            self.server.create_once(task, f"identifier={system}|{patient_id}&status={','.join(OPEN)}")

    def _change(self, patient_id: str, system: str, change: Callable[[Json], Json]) -> bool:
        """Whether there was an open Task to change."""
        query = [("identifier", f"{system}|{patient_id}"), ("status", ",".join(OPEN))]
        found = self.server.search("Task", query)
        for task in found:
            self.server.change(f"Task/{task['id']}", change)
        return bool(found)
