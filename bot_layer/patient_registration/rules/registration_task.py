"""The Tasks that a registration leaves for people, and what becomes of them.

Each state of the patient gives the state of the Task: a failure opens it, a registration completes it, and a patient
who needs no registration any more cancels it. A second kind of Task asks a person to have a registration ended.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from bot_layer.errors import BotError
from bot_layer.fhir import outcomes
from bot_layer.fhir.json import Json

TASK_SYSTEM: Final = "https://medplum.com/integrations/python-bots/registration-task"
ENDING_SYSTEM: Final = "https://medplum.com/integrations/python-bots/end-registration-task"
OPEN: Final = ("requested", "received", "accepted", "ready", "in-progress", "on-hold", "draft")
"""The statuses of a Task that somebody still has to look at, whoever has taken it up meanwhile."""
_TEXTS: Final = {
    TASK_SYSTEM: ("register-patient", "Register the patient in Health Gorilla"),
    ENDING_SYSTEM: ("end-registration", "Have Health Gorilla end the patient's registration"),
}


def task(patient_id: str, error: BotError, now: datetime, system: str = TASK_SYSTEM) -> Json:
    """The Task that shows a failed registration, or one to be ended: one open Task of each kind for a patient."""
    moment = now.isoformat(timespec="seconds")
    code, text = _TEXTS[system]
    return {
        "resourceType": "Task",
        "identifier": [{"system": system, "value": patient_id}],
        "status": "requested",
        "intent": "order",
        "code": {"coding": [{"system": outcomes.CODE_SYSTEM, "code": code}], "text": text},
        "for": {"reference": f"Patient/{patient_id}"},
        "focus": {"reference": f"Patient/{patient_id}"},
        "authoredOn": moment,
        "lastModified": moment,
        **_reason(error.code, error.message),
    }


def changed(stored: Json, now: datetime, status: str, code: str = "", text: str = "") -> Json:
    """The Task with a status, and with the latest reason if there is one; unchanged where it says so already."""
    reason = _reason(code, text) if code else {}
    if {"status": status, **reason}.items() <= stored.items():
        return stored
    return {**stored, "status": status, **reason, "lastModified": now.isoformat(timespec="seconds")}


def _reason(code: str, text: str) -> Json:
    return {"statusReason": {"coding": [{"system": outcomes.CODE_SYSTEM, "code": code}], "text": text}}
